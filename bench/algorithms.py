"""Every algorithm on every layer of a network, all three passes: time relative to lowering, error.

    python -m bench.algorithms [--network googlenet cifar10_quick] [--batch 1 32] [--threads N]
                               [--passes forward input_grad weight_grad]

Errors are relative to the largest entry of the same pass in float64 by the loop nest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench.cases import Layer, layers
from bench.interleaved import geometric_mean, median_ratio, times

PASSES = ("forward", "input_grad", "weight_grad")
SLOW = 2e9  # FLOP above which the loop nest is not timed: it would take minutes


def operands(layer: Layer, batch: int, op: str) -> tuple[np.ndarray, np.ndarray]:
    """Return random operands of a pass, float32."""
    rng = np.random.default_rng(0)
    plan = lc.plan_conv2d(layer.x_shape(batch), layer.w_shape, layer.stride, layer.padding)
    shapes = {
        "forward": (layer.x_shape(batch), layer.w_shape),
        "input_grad": (plan.result_shape, layer.w_shape),
        "weight_grad": (plan.result_shape, layer.x_shape(batch)),
    }[op]
    first, second = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return first, second


def plan_for(layer: Layer, batch: int, op: str, algorithm: str, dtype: str) -> lc.ConvPlan:
    """Return the plan of a pass of a layer."""
    return lc.plan_conv2d(
        layer.x_shape(batch),
        layer.w_shape,
        layer.stride,
        layer.padding,
        op=op,
        algorithm=algorithm,
        dtype=dtype,
    )


def errors(layer: Layer, op: str) -> dict[str, float]:
    """Return the relative error of each algorithm, at batch 1."""
    first, second = operands(layer, 1, op)
    exact = plan_for(layer, 1, op, "direct", "float64")(
        first.astype(np.float64), second.astype(np.float64)
    )
    return {
        name: float(
            np.abs(plan_for(layer, 1, op, name, "float32")(first, second) - exact).max()
            / np.abs(exact).max()
        )
        for name in lc.algorithms()
    }


def candidates(layer: Layer, batch: int, op: str) -> dict[str, Callable[[], object]]:
    """Return a call for each algorithm, output memory given."""
    first, second = operands(layer, batch, op)
    runs: dict[str, Callable[[], object]] = {}
    for name in (*lc.algorithms(), "auto"):
        plan = plan_for(layer, batch, op, name, "float32")
        if name != "direct" or plan.problem.flops <= SLOW:
            out = np.empty(plan.result_shape, np.float32)
            runs[name] = partial(plan, first, second, out=out)
    return runs


def main() -> None:
    """Print a table for each network, batch and pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=["googlenet", "cifar10_quick"])
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
        flops = plan_for(layer, batch, op, "lowering", "float32").problem.flops
        cells = []
        for name in names:
            if name in taken:
                gains[name].append(median_ratio(taken["lowering"], taken[name]))
                cells.append(f"{gains[name][-1]:.2f}")
            else:
                cells.append("-")
        speed = flops / min(taken["lowering"]) / 1e9
        table.add_row(layer.name, f"{speed:.0f}", *cells, f"{error:.1e}")
    means = [f"{geometric_mean(gain):.2f}" if gain else "-" for gain in gains.values()]
    table.add_section()
    table.add_row("geometric mean", "", *means, f"{worst:.1e}")
    lows = [f"{min(gain):.2f}" if gain else "-" for gain in gains.values()]
    table.add_row("worst layer", "", *lows, "")
    console.print(table)


if __name__ == "__main__":
    main()
