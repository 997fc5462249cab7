"""What networks from elsewhere cost beside their arithmetic: calls, starts, new sizes.

    python -m bench.interop [calls] [starts] [sizes FILE [--network NAME]] [--threads 2]

``calls``: microseconds of calls through `lowerconv.torch`, of networks and tensors so small that
nothing else counts, beside the same program without PyTorch, and beside PyTorch's own layer.
``starts``: a new process loads ResNet-50 from an ONNX file, plans it and runs it once, with
compiled code in the caches and without.  ``sizes``: `FILE`, an ONNX file with one input of images,
or a package that has some, gets images of many sizes, after the largest of all: what memory grows
by, and what a size takes that is new, its first call less the quickest of the next two.  The first
time kernels are read from the caches, or compiled; the second time plans alone are made anew, of
which a network keeps few.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench.costs import REPEATS, in_new_process, microseconds
from bench.onnx_files import models, page
from lowerconv import nn
from lowerconv.nn.models import MODELS
from lowerconv.onnx import OnnxNetwork, load

STATUS = Path("/proc/self/status")
CALLS = 2_000
LIMIT = 15  # ms that planning may take
STEP, LEAST = 32, 320  # extents of images: multiples of the first, from the second on
Rows = Iterator[tuple[str, str]]

START = """
import time
begin = time.perf_counter()
import numpy as np, lowerconv as lc, lowerconv.onnx
lc.set_num_threads({threads})
x = np.ones({shape}, np.float32)
imported = time.perf_counter()
net = lowerconv.onnx.load({path!r})
loaded = time.perf_counter()
net(x)
print(imported - begin, loaded - imported, time.perf_counter() - loaded)
"""


def calls() -> Rows:
    """Yield the cost of calls through `convert` and `Conv2d`."""
    import torch

    torch.set_num_threads(lc.get_num_threads())
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10)),
    )
    native, image = lc.torch.to_native(model, x), x.numpy()
    infer, step = native.compile(image.shape), nn.Step(training=True)
    dy = torch.ones(1, 10)
    converted = lc.torch.convert(model, x, strict=True)
    parameters = list(converted.parameters())

    def train() -> None:
        torch.autograd.grad(converted(x), parameters, dy)

    def train_natively() -> None:
        native.run(image, step)
        native.backward(dy.numpy())

    def row(what: str, door: float, beside: float, other: str) -> tuple[str, str]:
        return what, f"{door:.1f} us, {door - beside:.1f} beyond the {beside:.1f} of {other}"

    def both(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
        return microseconds(one, CALLS), microseconds(other, CALLS)

    program = "the program"
    yield row("converted module, forward and backward", *both(train, train_natively), program)
    converted.eval()
    with torch.no_grad():
        times = both(lambda: converted(x), lambda: infer(image))
    yield row("converted module, evaluation", *times, program)
    times = both(lambda: converted(x), lambda: infer(image))
    yield row("the same, not under torch.no_grad", *times, program)

    pixel, dpixel = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    ours, theirs = lc.torch.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1)

    def step_of(conv: torch.nn.Conv2d) -> Callable[[], object]:
        parts = [conv.weight, conv.bias]
        return lambda: torch.autograd.grad(conv(pixel), parts, dpixel)

    with torch.no_grad():
        times = both(lambda: ours(pixel), lambda: theirs(pixel))
    yield row("lowerconv.torch.Conv2d, one pixel", *times, "torch.nn.Conv2d")
    times = both(step_of(ours), step_of(theirs))
    yield row("the same, forward and backward", *times, "torch.nn.Conv2d")


def starts(model: str = "resnet50") -> Rows:
    """Yield what a new process takes until it has the first result of a network."""
    shape = (1, *MODELS[model].image_shape)
    with tempfile.TemporaryDirectory() as directory:
        path, cache = Path(directory) / f"{model}.onnx", Path(directory) / "cache"
        network = MODELS[model].build()
        network.initialize(np.random.default_rng(0))
        network.save_onnx(path, shape)
        program = START.format(threads=lc.get_num_threads(), shape=shape, path=str(path))

        def start() -> list[float]:
            whole, printed = in_new_process(program, cache)
            imports, loads, runs = map(float, printed.split())
            return [loads + runs, loads, runs, imports, whole]

        def row(what: str, taken: list[float]) -> tuple[str, str]:
            total, loads, runs, imports, whole = taken
            return f"{model} from ONNX, {what}", (
                f"{total:.2f} s: load {loads:.2f}, plan and first run {runs:.2f} "
                f"(imports {imports:.2f}; {whole:.2f} in all)"
            )

        yield row("caches cold", start())
        many = [start() for _ in range(REPEATS)]
        yield row(f"warm, median of {REPEATS}", [*map(statistics.median, zip(*many, strict=True))])


def network_of(path: Path, name: str | None) -> OnnxNetwork:
    """Return the network of a file, or the one of that name in a package."""
    found = {known: content for known, content, _ in models(path)}
    if name is None and len(found) == 1:
        (name,) = found
    if name not in found:
        raise ValueError(f"--network: got {name}, expected one of {', '.join(found)}")
    return load(found[name])


def resident() -> float:
    """Return the MiB of memory that the process has now; of Linux alone."""
    found = re.search(r"VmRSS:\s*([0-9]+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) / 1024


def sizes(network: OnnxNetwork, count: int, most: int) -> Rows:
    """Yield what memory grows by over many sizes, and what each takes that is new."""
    extents = range(LEAST, most + 1, STEP)
    pairs = [(h, w) for h in extents for w in extents if (h, w) != (most, most)]
    if len(pairs) < count:
        raise ValueError(f"--count: got {count}, expected at most {len(pairs)} up to {most} pixels")
    order = np.random.default_rng(0).permutation(len(pairs))[:count]

    def run(h: int, w: int) -> float:
        x = page((1, 3, h, w))
        taken = []
        for _ in range(3):
            begin = time.perf_counter()
            network(x)
            taken.append(time.perf_counter() - begin)
        return 1e3 * (taken[0] - min(taken[1:]))

    for _ in range(2):
        run(most, most)
    arena = network._use.inference.arena
    largest, before = arena.memory.nbytes, resident()
    title = f"{count} sizes, {LEAST} to {most} pixels"
    rows = []
    for what in ("new sizes", "again, kernels known, plans forgotten"):
        planning = [run(*pairs[place]) for place in order]
        late = sum(ms > LIMIT for ms in planning)
        rows.append(
            (
                f"planning: {what}",
                f"median {statistics.median(planning):.1f} ms, largest {max(planning):.1f}; "
                f"{late} above {LIMIT}",
            )
        )
        grown = (arena.memory.nbytes - largest) / 2**20, resident() - before
        rows.append(
            (
                f"memory: {what}",
                f"arena {largest / 2**20:.1f} MiB after the largest, then {grown[0]:+.1f}; "
                f"resident {before:.1f} MiB, then {grown[1]:+.1f}",
            )
        )
    for what, cost in rows:
        yield f"{title}, {what}", cost


def main() -> None:
    """Print a table."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("parts", nargs="+", metavar="calls|starts|sizes FILE")
    parser.add_argument("--network", metavar="NAME", help="of those in a package")
    parser.add_argument("--model", choices=list(MODELS), default="resnet50", help="of starts")
    parser.add_argument("--count", type=int, default=200, help="of sizes (%(default)s)")
    parser.add_argument("--most", type=int, default=960, help="pixels of a side (%(default)s)")
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    options = parser.parse_intermixed_args()
    lc.set_num_threads(options.threads)
    rows: list[tuple[str, str]] = []
    given = iter(options.parts)
    for part in given:
        if part == "calls":
            rows += calls()
        elif part == "starts":
            rows += starts(options.model)
        elif part == "sizes" and (path := next(given, None)):
            rows += sizes(network_of(Path(path), options.network), options.count, options.most)
        else:
            parser.error(f"got {part!r}, expected calls, starts or sizes FILE")
    table = Table(title=f"{lc.machine_report()['cpu']['name']}, {options.threads} threads")
    table.add_column("what")
    table.add_column("cost")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
