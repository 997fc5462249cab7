"""GoogLeNet's 3x3, 5x5 and 7x7 layers: what is gained over lowering, beside what was published.

Sakiyama et al. published the speed-up of pipelined lowering over lowering for each layer; it lost
wherever the filters are large beside the lowered images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lowerconv.bench import draw
from lowerconv.bench.case import REFERENCE, Case, Options, layer_cases
from lowerconv.bench.passes import PASSES
from lowerconv.bench.result import Result
from lowerconv.bench.show import (
    add_gains,
    caption,
    head,
    left_out,
    ms,
    new_table,
    ordered,
    percent,
    times,
)
from lowerconv.bench.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = "seed_speedup"  # the column of the shapes' file


def cases(options: Options) -> list[Case]:
    """Return every layer and pass."""
    return layer_cases("googlenet", options)


def _gaining(result: Result) -> list[str]:
    return [name for name in ordered(result) if name != REFERENCE]


def tables(result: Result) -> list[Table]:
    """Return a table of speed-ups for each pass."""
    names, peak = _gaining(result), result.conditions["peak"]
    made = []
    for op in result.values("pass"):
        rows = result.where(**{"pass": op})
        table = new_table(
            f"GoogLeNet, {op}: speed-up over lowering",
            ["layer"],
            ["MFLOP", "lowering\nms", "published:\npipelined", *map(head, names), "% of\npeak"],
        )
        for row in rows:
            table.add_row(
                row.labels["layer"],
                f"{row.facts['flops'] / 1e6:,.0f}",
                ms(row.median(REFERENCE)),
                times(row.facts.get(PUBLISHED)),
                *(times(row.gain(name)) for name in names),
                percent(max(map(row.speed, row.seconds)) / peak),
            )
        add_gains(table, rows, names, before=3, after=1)
        made.append(table)
    return made


def notes(result: Result) -> list[str]:
    """Return the lines below the tables."""
    return [
        *caption(result),
        *left_out(result),
        "speed-up: time of lowering / time, in the median of the turns, below 1 one loses; "
        "% of peak: the fastest",
        "published: Sakiyama et al., on their CPUs; batch and pass are not known, so the column is "
        "the same in every table",
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw speed-ups as bars, the published ones beside them, a panel for each pass."""
    names, passes = _gaining(result), result.values("pass")
    names = [name for name in names if name != "direct"]  # would only be the lowest bars
    panels = figure.subplots(len(passes), 1, squeeze=False)[:, 0]
    figure.set_size_inches(13, 1.2 + 3.4 * len(passes))
    for axes, op in zip(panels, passes, strict=True):
        rows = result.where(**{"pass": op})
        series = {"published": [row.facts.get(PUBLISHED) for row in rows]}
        series |= {name: [row.gain(name) for row in rows] for name in names}
        draw.grouped_bars(
            axes,
            [row.labels["layer"] for row in rows],
            series,
            labels={"published": "published: pipelined (Sakiyama et al.)"},
        )
        axes.axhline(1.0, color="black", linewidth=1)
        axes.set_ylabel("speed-up over lowering")
        axes.set_title(op, loc="left")
        axes.tick_params(axis="x", rotation=40)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    panels[0].legend(ncols=len(names) + 1, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    panels[-1].set_xlabel("layer")
    figure.suptitle(draw.heading("GoogLeNet (line at 1: lowering)", result))


STUDY = Study(
    name="googlenet",
    summary="GoogLeNet's 20 layers: speed-up over lowering, beside the published one",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=32,
    passes=PASSES,
)
