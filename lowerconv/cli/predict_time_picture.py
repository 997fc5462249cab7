"""A picture of predicted runs: what a step consists of, and efficiency, over numbers of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowerconv.bench.draw import DPI, OTHERS, STYLES, fill
from lowerconv.cli.latency_picture import check_picture
from lowerconv.predict.resources import Plan, Row
from lowerconv.printable import drawable

__all__ = ["check_picture", "draw"]

PARTS = ("compute", "exposed", "skew", "input")
# Of batches: as many as there are, without the white one.
LOOKS = [look for name, look in STYLES.items() if name != "published"] + [*OTHERS]


def draw(plan: Plan, path: Path) -> None:
    """Write the picture; its name tells the format.

    Raises
    ------
    ValueError
        There is nothing to be drawn.
    OSError
        The file cannot be written.
    """
    if not plan.rows:
        raise ValueError("--plot: got no run that could be predicted, expected at least one")
    from matplotlib.figure import Figure

    batches = sorted({row.step.batch for row in plan.rows})
    figure = Figure(figsize=(11, 5), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    largest = [row for row in plan.rows if row.step.batch == batches[-1]]
    _draw_steps(bars, largest)
    for number, batch in enumerate(batches):
        rows = [row for row in plan.rows if row.step.batch == batch]
        look = LOOKS[number % len(LOOKS)]
        lines.plot(
            [row.step.ranks for row in rows],
            [100 * row.efficiency for row in rows],
            label=f"batch {batch}",
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
        )
    lines.set_xscale("log", base=2)
    ranks = sorted({row.step.ranks for row in plan.rows})
    lines.set_xticks(ranks, [str(count) for count in ranks])
    lines.set_xlabel("ranks")
    lines.set_ylabel("images/s over those of one rank, by rank (%)")
    lines.set_ylim(0)
    lines.grid(alpha=0.3)
    lines.legend()
    facts = plan.calibration.network
    title = f"predicted: {facts.model} on {facts.data}, {plan.options.strategy}"
    figure.suptitle(drawable(f"{title}; calibrated on {plan.calibration.cpu}"))
    figure.savefig(path, dpi=DPI)


def _draw_steps(axes: Any, rows: list[Row]) -> None:
    """Draw a bar for each number of ranks, made of the parts of a step."""
    looks = [STYLES[name] for name in ("fused", "lowering", "pipelined", "direct")]
    left = [0.0] * len(rows)
    for part, look in zip(PARTS, looks, strict=True):
        widths = [1e3 * getattr(row.step, part) for row in rows]
        axes.bar(range(len(rows)), widths, bottom=left, label=part, **fill(look))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_xticks(range(len(rows)), [str(row.step.ranks) for row in rows])
    axes.set_xlabel(f"ranks, batch {rows[0].step.batch}")
    axes.set_ylabel("ms of a step")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend()
