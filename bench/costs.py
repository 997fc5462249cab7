"""What a convolution costs beside its arithmetic: calls, starts, compilation, memory.

python -m bench.costs
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from lowerconv.bench.cases import layers, networks
from lowerconv.bench.passes import PASSES

REPEATS = 5

# GoogLeNet's inception modules: H, C, and the filters of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5,
# pool projection (Szegedy et al., table 1).
MODULES = (
    (28, 192, 64, 96, 128, 16, 32, 32),
    (28, 256, 128, 128, 192, 32, 96, 64),
    (14, 480, 192, 96, 208, 16, 48, 64),
    (14, 512, 160, 112, 224, 24, 64, 64),
    (14, 512, 128, 128, 256, 24, 64, 64),
    (14, 512, 112, 144, 288, 32, 64, 64),
    (14, 528, 256, 160, 320, 32, 128, 128),
    (7, 832, 256, 160, 320, 32, 128, 128),
    (7, 832, 384, 192, 384, 48, 128, 128),
)

FIRST = """
import numpy as np, lowerconv as lc
x, w = np.ones((1, 64, 56, 56), np.float32), np.ones((64, 64, 3, 3), np.float32)
lc.conv2d(x, w, padding=1)
"""
# The arrays are there, and the code is loaded, before the peak is read for the first time.
PEAK = """
import resource, numpy as np, lowerconv as lc
x, w = np.ones((32, 64, 112, 112), np.float32), np.ones((128, 64, 3, 3), np.float32)
plan = lc.plan_conv2d(x.shape, w.shape, padding=1, algorithm="fused")
y = np.ones(plan.result_shape, np.float32)
a, b = np.ones((32, 16, 8, 8), np.float32), np.ones((64, 16, 3, 3), np.float32)
small = lc.plan_conv2d(a.shape, b.shape, padding=1, algorithm="fused")
c = np.ones(small.result_shape, np.float32)
small(a, b, out=c)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan(x, w, out=y)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(plan.workspace_bytes, (after - before) * 1024)
"""
ALL = "from bench.costs import run_googlenet; run_googlenet()"


def googlenet_layers() -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, int]]:
    """Yield (x_shape, w_shape, stride, padding) of GoogLeNet's 57 convolutions, batch 1."""
    yield (1, 3, 224, 224), (64, 3, 7, 7), 2, 3
    yield (1, 64, 56, 56), (64, 64, 1, 1), 1, 0
    yield (1, 64, 56, 56), (192, 64, 3, 3), 1, 1
    for H, C, one, reduce3, three, reduce5, five, pool in MODULES:
        x = (1, C, H, H)
        yield x, (one, C, 1, 1), 1, 0
        yield x, (reduce3, C, 1, 1), 1, 0
        yield (1, reduce3, H, H), (three, reduce3, 3, 3), 1, 1
        yield x, (reduce5, C, 1, 1), 1, 0
        yield (1, reduce5, H, H), (five, reduce5, 5, 5), 1, 2
        yield x, (pool, C, 1, 1), 1, 0


def run_googlenet() -> None:
    """Run every convolution of GoogLeNet once, three passes."""
    for x_shape, w_shape, stride, padding in googlenet_layers():
        x, w = np.ones(x_shape, np.float32), np.ones(w_shape, np.float32)
        y = lc.conv2d(x, w, None, stride, padding)
        lc.conv2d_input_grad(y, w, x_shape, stride, padding)
        lc.conv2d_weight_grad(y, x, w_shape, stride, padding)


def in_new_process(program: str, cache: Path | None = None) -> tuple[float, str]:
    """Return the seconds of a program in a new process, with caches of its own if given.

    And what it has printed.
    """
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    if cache:
        environment |= {"NUMBA_CACHE_DIR": str(cache), "LOWERCONV_CACHE_DIR": str(cache)}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    return time.perf_counter() - begin, done.stdout


def seconds(program: str, cache: Path | None = None) -> float:
    """Return what a new process takes to run a program, with caches of its own if given."""
    return in_new_process(program, cache)[0]


def microseconds(call: Callable[[], object], number: int = 10_000) -> float:
    """Return what a call costs, the least of several rounds of so many."""
    call()
    return min(timeit.repeat(call, number=number, repeat=REPEATS)) / number * 1e6


def calls() -> Iterator[tuple[str, str]]:
    """Yield the cost of calls on a layer of a single multiplication."""
    x, w = np.ones((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    plan = lc.plan_conv2d(x.shape, w.shape, algorithm="fused")
    y = plan(x, w)

    yield "call of a plan, out given", f"{microseconds(lambda: plan(x, w, out=y)):.1f} us"
    function = microseconds(lambda: lc.conv2d(x, w, algorithm="fused"))
    yield "call of conv2d", f"{function:.1f} us"


def starts() -> Iterator[tuple[str, str]]:
    """Yield what new processes take, with and without compiled code in the caches."""
    base = min(seconds("import numpy, numba") for _ in range(REPEATS))
    yield "import numpy, numba", f"{base:.2f} s"
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory)
        yield "first convolution, nothing cached", f"{seconds(FIRST, cache):.2f} s in all"
        files = sorted(cache.rglob("*"))
        warm = min(seconds(FIRST, cache) for _ in range(REPEATS))
        made = len(set(cache.rglob("*")) - set(files))
        yield (
            "first convolution, all cached",
            f"{warm - base:.2f} s beyond numpy and numba, {made} files compiled",
        )
    with tempfile.TemporaryDirectory() as directory:
        cache = Path(directory)
        count = len(list(googlenet_layers()))
        name = f"GoogLeNet, {count} layers, three passes"
        yield f"{name}, nothing cached", f"{seconds(ALL, cache):.1f} s in all"
        yield f"{name}, all cached", f"{seconds(ALL, cache):.1f} s in all"


def memory() -> Iterator[tuple[str, str]]:
    """Yield the largest workspace of any layer, and what the process really took for it."""
    threads = lc.get_num_threads()
    largest = max(
        (
            lc.plan_conv2d(
                layer.x_shape(batch), layer.w_shape, *layer.arguments, op=op, algorithm="fused"
            ).workspace_bytes
            // threads,
            f"{network} {layer.name}, {op}, batch {batch}",
        )
        for network in networks()
        for layer in layers(network)
        for op in PASSES
        for batch in (1, 32)
    )
    yield "workspace per thread, largest of all layers", f"{largest[0]:,} bytes ({largest[1]})"
    said, raised = map(int, in_new_process(PEAK)[1].split())
    yield (
        "32 images of 64x112x112, 128 filters 3x3",
        f"plan says {said:,} bytes of workspace, the call raised the process's peak by {raised:,}",
    )


def main() -> None:
    """Print a table."""
    console = Console(width=110)
    table = Table(title=f"{lc.machine_report()['cpu']['name']}, {lc.get_num_threads()} threads")
    table.add_column("what")
    table.add_column("cost")
    for part in (calls, memory, starts):
        for what, cost in part():
            table.add_row(what, cost)
    console.print(table)


if __name__ == "__main__":
    main()
