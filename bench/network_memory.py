"""What a step needs beside the parameters: memory at its peak, page faults, new arrays.

    python -m bench.network_memory [--models googlenet] [--batch 32] [--threads 2] [--steps 5]

Every candidate runs in a process of its own.  It trains a batch of one first, so that what only
compiling needs is there already; then steps of the whole batch, whose highest resident memory less
that before is what activations, gradients and workspace take.  After two of them page faults are
counted, and for lowerconv also the bytes of arrays made.  Linux only: the peak is the kernel's.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np

import lowerconv as lc
from bench.network_peers import BF16, OURS, TRAINING, available, candidate
from lowerconv.nn.models import MODELS

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
WARM = 2


def _kib(field: str) -> int:
    found = re.search(rf"{field}:\s*([0-9]+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1])


def measure(name: str, model: str, batch: int, threads: int, steps: int) -> str:
    """Return what one candidate needs, as a line of a table; run in a process of its own."""
    lc.set_num_threads(threads)
    candidate(name, model, 1, TRAINING, threads)()
    run = candidate(name, model, batch, TRAINING, threads)
    before = _kib("VmRSS")
    CLEAR.write_text("5")  # forget the highest so far
    for _ in range(WARM):
        run()
    peak = _kib("VmHWM") - before
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        run()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    made = ""
    if name in (OURS, BF16):
        made = f"{array_bytes(run):,}"
    return f"{name:<22}{peak / 1024:>12,.0f} MiB{faults / steps:>14,.1f}{made:>14}"


def array_bytes(run) -> int:
    """Return the most bytes of NumPy's arrays that a step has had beside those before it."""
    tracemalloc.start()
    run()
    domain = np.lib.tracemalloc_domain
    tracemalloc.reset_peak()
    only = tracemalloc.DomainFilter(True, domain)
    before = tracemalloc.take_snapshot().filter_traces([only])
    run()
    after = tracemalloc.take_snapshot().filter_traces([only])
    tracemalloc.stop()
    return sum(max(0, entry.size_diff) for entry in after.compare_to(before, "lineno"))


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["googlenet"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        (model,) = options.models
        print(measure(options.only, model, options.batch, options.threads, options.steps))
        return
    for model in options.models:
        print(f"{model}, batch {options.batch}, a training step")
        print(f"{'':<22}{'peak memory':>16}{'page faults':>14}{'new arrays':>14}", flush=True)
        for name in (BF16, *available(TRAINING, model)):
            if name == "torch_compile":
                continue
            values = (model, options.batch, options.threads, options.steps, name)
            names = ("--models", "--batch", "--threads", "--steps", "--only")
            arguments = [
                word for pair in zip(names, map(str, values), strict=True) for word in pair
            ]
            subprocess.run([sys.executable, "-m", "bench.network_memory", *arguments], check=True)


if __name__ == "__main__":
    main()
