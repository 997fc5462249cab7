"""Where a training step of a network goes, layer by layer.

    python -m bench.breakdown [--model googlenet] [--batch 32] [--threads 2] [--steps 5]
                              [--algorithm auto] [--precision float32] [--kinds]

The median over the steps of each layer's milliseconds, forward and backward, and for products their
share of what multiply-adds give.  With ``--kinds`` only a row for each kind of layer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench.network_peers import data, options_of
from lowerconv import nn
from lowerconv.bench.peak import fma_peak
from lowerconv.nn.frame import Frame
from lowerconv.nn.models import MODELS
from lowerconv.nn.precision import PRECISIONS

Times = dict[str, dict[str, list[float]]]  # of a layer, of a phase


class Clock:
    """Told when layers are done, notes how long each took."""

    def __init__(self) -> None:
        self.times: Times = defaultdict(lambda: defaultdict(list))
        self.flops: dict[str, dict[str, int]] = defaultdict(dict)
        self.kinds: dict[str, str] = {}
        self.since = 0.0

    def start(self) -> None:
        """Begin a step, or go on with it."""
        self.since = time.perf_counter()

    def __call__(self, layer: nn.Layer, frame: Frame, phase: str) -> None:
        """Note the time since the layer before."""
        now = time.perf_counter()
        self.times[frame.name][phase].append(now - self.since)
        work = layer.flops(*(x.shape for x in frame.xs))
        passes = 1 if phase == "forward" else 1 + (frame.dx is not None)
        self.flops[frame.name][phase] = passes * work
        self.kinds[frame.name] = type(layer).__name__
        self.since = time.perf_counter()

    def note(self, name: str) -> None:
        """Note the time of what is no layer."""
        self.times[name]["forward"].append(time.perf_counter() - self.since)
        self.kinds[name] = name
        self.start()


def measure(
    model: str, batch: int, algorithm: str, precision: str, steps: int
) -> tuple[Clock, float]:
    """Return the times of all layers, and of whole steps."""
    network = MODELS[model].build(algorithm=algorithm, **options_of(model))
    network.precision = precision
    optimizer = nn.SGD(network, lr=0.0, momentum=0.9)
    images, labels = data(model, batch)
    step, clock, whole = nn.Step(training=True), Clock(), []
    for number in range(steps + 2):
        if number == 2:
            network.register_watch(clock)
        begin = time.perf_counter()
        clock.start()
        scores = network.run(images, step)
        clock.start()
        loss = nn.softmax_cross_entropy(scores, labels)
        if number >= 2:
            clock.note("loss")
        network.backward(loss.gradient)
        clock.start()
        optimizer.step()
        if number >= 2:
            clock.note("update")
            whole.append(time.perf_counter() - begin)
    return clock, statistics.median(whole)


def table_of(clock: Clock, whole: float, peak: float, by_kind: bool) -> Table:
    """Return the table of a step."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("kind of layer" if by_kind else "layer")
    for title in ("forward ms", "% of peak", "backward ms", "% of peak", "% of step"):
        table.add_column(title, justify="right")
    rows: dict[str, dict[str, list[float]]] = {}
    for name, phases in clock.times.items():
        row = rows.setdefault(clock.kinds[name] if by_kind else name, {})
        for phase, taken in phases.items():
            seconds, work = row.setdefault(phase, [0.0, 0.0])
            work += clock.flops.get(name, {}).get(phase, 0)
            row[phase] = [seconds + statistics.median(taken), work]
    for name, row in rows.items():
        cells = []
        for phase in ("forward", "backward"):
            seconds, work = row.get(phase, (0.0, 0.0))
            cells.append(f"{1e3 * seconds:,.2f}" if seconds else "")
            cells.append(f"{work / seconds / peak:.0%}" if work and seconds else "")
        share = sum(seconds for seconds, _ in row.values()) / whole
        table.add_row(name, *cells, f"{share:.1%}")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(MODELS), default="googlenet")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--algorithm", default="auto", choices=("auto", *lc.algorithms()))
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--kinds", action="store_true")
    options = parser.parse_args()
    lc.set_num_threads(options.threads)
    clock, whole = measure(
        options.model, options.batch, options.algorithm, options.precision, options.steps
    )
    peak = fma_peak(options.threads)
    console = Console(width=110, markup=False, highlight=False)
    console.print(table_of(clock, whole, peak, options.kinds))
    work = sum(sum(phases.values()) for phases in clock.flops.values())
    console.print(
        f"{options.model}, batch {options.batch}, {options.precision}, {options.threads} threads: "
        f"{1e3 * whole:,.1f} ms a step, {options.batch / whole:,.1f} images/s, "
        f"{work / whole / peak:.0%} of the peak of {peak / 1e9:,.0f} GFLOP/s"
    )


if __name__ == "__main__":
    main()
