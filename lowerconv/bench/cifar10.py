"""The network for CIFAR-10, simple convolution beside lowering, pipelined lowering and fused.

After Sakiyama et al.: three convolutional layers, 100 images, forward (``_P``) and backward
(``_BP``) per layer on one CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lowerconv.bench import draw, published
from lowerconv.bench.case import REFERENCE, Case, Options, able, layer_cases
from lowerconv.bench.passes import BACKWARD
from lowerconv.bench.result import Result, Row, total
from lowerconv.bench.show import caption, ms, new_table, percent, times, title
from lowerconv.bench.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORT = {"forward": "P", BACKWARD: "BP"}


def cases(options: Options) -> list[Case]:
    """Return every layer and pass; the loop nest is measured whatever it takes."""
    return layer_cases("cifar10_quick", options, able)


def name(row: Row) -> str:
    """Return a row as the literature calls it, such as ``conv1_BP``."""
    return f"{row.labels['layer']}_{SHORT.get(row.labels['pass'], row.labels['pass'])}"


def tables(result: Result) -> list[Table]:
    """Return milliseconds and speed-ups over lowering."""
    names = result.names
    table = new_table(
        "CIFAR-10 network: ms (speed-up over lowering)",
        ["layer"],
        ["MFLOP", *map(title, names), "best: %\nof peak"],
    )

    def cell(seconds: float | None, gain: float | None, which: str) -> str:
        return ms(seconds) + (f" ({times(gain)})" if which != REFERENCE else "")

    for row in result.rows:
        speed = max(map(row.speed, row.seconds))
        table.add_row(
            name(row),
            f"{row.facts['flops'] / 1e6:,.0f}",
            *(cell(row.median(which), row.gain(which), which) for which in names),
            percent(speed / result.conditions["peak"]),
        )
    table.add_section()
    for op in result.values("pass"):
        rows = result.where(**{"pass": op})
        sums = {which: total(rows, which) for which in names}
        table.add_row(
            f"sum_{SHORT.get(op, op)}",
            f"{sum(row.facts['flops'] for row in rows) / 1e6:,.0f}",
            *(cell(sums[which], _ratio(sums[REFERENCE], sums[which]), which) for which in names),
            "",
        )
    return [table]


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def notes(result: Result) -> list[str]:
    """Return the lines below the table."""
    gain = published.claim("two_cpus_gain")
    return [
        *caption(result),
        "P: forward; BP: gradients of images and of filters, for conv1 too, where training "
        "needs none of images",
        f"published, batch 100: pipelining up to {gain:.2f} over lowering on two 8-core CPUs, but "
        "BP on one much slower than lowering",
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw milliseconds per layer and pass."""
    names = result.names
    axes = figure.subplots()
    draw.grouped_bars(
        axes,
        [name(row) for row in result.rows],
        {which: [1e3 * row.median(which) for row in result.rows] for which in names},
        number=lambda height: ms(height / 1e3),
    )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.12)  # room for the numbers over the bars
    axes.set_ylabel("time of a batch (ms, logarithmic)")
    axes.set_xlabel("layer, forward (P) or both gradients (BP)")
    axes.legend(ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, 1.12))
    figure.suptitle(draw.heading("CIFAR-10 network", result))


STUDY = Study(
    name="cifar10",
    summary="CIFAR-10 network: every algorithm, forward and backward, per layer",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=100,
    passes=("forward", BACKWARD),
)
