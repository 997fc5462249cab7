"""Every algorithm on every layer of a network, all three passes: time relative to lowering, error.

    python -m bench.algorithms [--network googlenet cifar10_quick] [--batch 1 32] [--threads N]
                               [--passes forward input_grad weight_grad]

Errors are relative to the largest entry of the same pass in float64 by the loop nest.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench.cases import Layer, layers, networks
from bench.interleaved import Run, geometric_mean, median_ratio, times
from bench.passes import PASSES, flops, operands, plan_for, planned

SLOW = 2e9  # FLOP above which the loop nest is not timed: it would take minutes


def errors(layer: Layer, op: str) -> dict[str, float]:
    """Return the relative error of each algorithm, at batch 1."""
    first, second = operands(layer, 1, op)
    exact = plan_for(layer, 1, op, "direct", dtype="float64")(
        first.astype(np.float64), second.astype(np.float64)
    )
    return {
        name: float(
            np.abs(plan_for(layer, 1, op, name)(first, second) - exact).max() / np.abs(exact).max()
        )
        for name in lc.algorithms()
    }


def candidates(layer: Layer, batch: int, op: str) -> dict[str, Run]:
    """Return a call for each algorithm, output memory given."""
    first, second = operands(layer, batch, op)
    runs: dict[str, Run] = {}
    for name in (*lc.algorithms(), "auto"):
        plan = plan_for(layer, batch, op, name)
        if name != "direct" or plan.problem.flops <= SLOW:
            runs[name] = planned(plan, first, second)
    return runs


def main() -> None:
    """Print a table for each network, batch and pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--network", nargs="+", choices=networks(), default=["googlenet", "cifar10_quick"]
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    options = parser.parse_args()
    lc.set_num_threads(options.threads)
    console = Console(width=100)
    report = lc.machine_report()
    console.print(f"{report['cpu']['name']}, {options.threads} threads")
    for network in options.network:
        for batch in options.batch:
            for op in options.passes:
                compare(console, network, batch, op)


def compare(console: Console, network: str, batch: int, op: str) -> None:
    """Print one table."""
    names = (*lc.algorithms(), "auto")
    table = Table(title=f"{network}, batch {batch}, {op}: time of lowering / time")
    table.add_column("layer")
    table.add_column("lowering GFLOP/s", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("largest error", justify="right")
    gains: dict[str, list[float]] = {name: [] for name in names}
    worst = 0.0
    for layer in layers(network):
        taken = times(candidates(layer, batch, op))
        error = max(errors(layer, op).values())
        worst = max(worst, error)
        cells = []
        for name in names:
            if name in taken:
                gains[name].append(median_ratio(taken["lowering"], taken[name]))
                cells.append(f"{gains[name][-1]:.2f}")
            else:
                cells.append("-")
        speed = flops(layer, batch) / min(taken["lowering"]) / 1e9
        table.add_row(layer.name, f"{speed:.0f}", *cells, f"{error:.1e}")
    means = [f"{geometric_mean(gain):.2f}" if gain else "-" for gain in gains.values()]
    table.add_section()
    table.add_row("geometric mean", "", *means, f"{worst:.1e}")
    lows = [f"{min(gain):.2f}" if gain else "-" for gain in gains.values()]
    table.add_row("worst layer", "", *lows, "")
    console.print(table)


if __name__ == "__main__":
    main()
