"""The pipeline itself: who lowers and who multiplies, when, on each core.

Not a table of the literature but its picture: lowering waits for memory, multiplying for the FMA
units, and what a pipeline gains is seen where the one lies beside the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from lowerconv.bench import draw
from lowerconv.bench.case import Case, Options, layer_facts, selected
from lowerconv.bench.chrome_trace import perfetto
from lowerconv.bench.interleaved import Run
from lowerconv.bench.passes import operands, plan_for, planned
from lowerconv.bench.result import Result, Row
from lowerconv.bench.show import caption, ms, new_table, percent
from lowerconv.bench.study import Study
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.watched import LOWER, MULTIPLY, PACK, Watched, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYER = "3a-3x3"  # unless layers are asked for: panels and bands of a middling size
ALGORITHMS = ("pipelined", "paired", "fused")
COLOURS = {LOWER: "#8fc7a1", MULTIPLY: "#2d1152", PACK: "#f2e08a"}  # apart in grey too
CALLS = 5  # of which the quickest is shown


class _Run:
    """A call of a plan, and beside it one that is watched."""

    def __init__(self, plan: ConvPlan, twin: ConvPlan, first: np.ndarray, second: np.ndarray):
        self._call = planned(plan, first, second)
        self._watched, self._operands = Watched(twin), (first, second)
        self._out = np.empty(twin.result_shape, np.float32)
        self._threads = twin.threads

    def __call__(self) -> object:
        return self._call()

    def details(self) -> dict[str, Any]:
        """Return the span of a call and its events, in nanoseconds."""
        calls = [self._watched(*self._operands, out=self._out) for _ in range(CALLS)]
        span, events = min(calls, key=lambda call: call[0])
        workers = max([self._threads, *(worker + 1 for worker, *_ in events)])
        return {"span": span, "workers": workers, "events": events}


def _runs(layer: Any, batch: int, op: str, names: Iterable[str]) -> dict[str, Run]:
    first, second = operands(layer, batch, op)
    return {
        name: _Run(
            plan_for(layer, batch, op, name), plan_for(layer, batch, op, name), first, second
        )
        for name in names
    }


def cases(options: Options) -> list[Case]:
    """Return a case for each layer that is asked for, by default one."""
    if not options.layers.pattern:
        options = Options(
            options.threads,
            options.batch,
            options.passes,
            re.compile(f"^{LAYER}$"),
            options.seconds,
        )
    return [
        Case(
            {"layer": layer.name, "pass": "forward"},
            ALGORITHMS,
            partial(_runs, layer, options.images, "forward"),
            layer_facts(layer, options.images, "forward"),
        )
        for layer in selected("googlenet", options)
    ]


def tables(result: Result) -> list[Table]:
    """Return how long each algorithm took, and the shares of its cores' time."""
    table = new_table(
        "Forward, one call: what the cores did", ["layer", "algorithm"], ["ms", *COLOURS, "rest"]
    )
    for row in result.rows:
        for name in row.seconds:
            found = row.facts["details"][name]
            part = shares(found["events"], found["span"], found["workers"])
            table.add_row(
                row.labels["layer"],
                name,
                ms(row.median(name)),
                *(percent(part[kind]) for kind in COLOURS),
                percent(max(0.0, 1 - sum(part.values()))),
            )
    return [table]


def notes(result: Result) -> list[str]:
    """Return the lines below the table."""
    return [
        *caption(result),
        "ms: the median of calls that are not watched; shares: of all cores' time in the quickest "
        f"of {CALLS} calls that are",
        "rest: starting, waiting for each other, loops, and the clock that watches",
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw a lane for each core, a panel for each algorithm; the first layer alone."""
    from matplotlib.patches import Patch

    row = result.rows[0]
    names = list(row.seconds)
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    figure.set_size_inches(12, 1.6 + 1.7 * len(names))
    for axes, name in zip(panels, names, strict=True):
        _lanes(axes, row, name)
    longest = max(found["span"] for found in row.facts["details"].values())
    panels[-1].set_xlim(0, 1.01 * longest / 1e3)  # of all panels
    panels[-1].set_xlabel("microseconds since the call")
    handles = [Patch(label=kind, fc=colour, ec="black") for kind, colour in COLOURS.items()]
    figure.legend(handles=handles, ncols=3, loc="outside upper right", frameon=False)
    layer = row.labels["layer"]
    figure.suptitle(draw.heading(f"Forward of {layer}", result), x=0.01, ha="left")


def _lanes(axes: Axes, row: Row, name: str) -> None:
    found = row.facts["details"][name]
    for worker in range(found["workers"]):
        for kind, colour in COLOURS.items():
            spans = [
                (begin / 1e3, (end - begin) / 1e3)
                for who, what, begin, end in found["events"]
                if (who, what) == (worker, kind)
            ]
            axes.broken_barh(spans, (worker - 0.38, 0.76), facecolor=colour)
    axes.set_yticks(range(found["workers"]), [f"thread {i}" for i in range(found["workers"])])
    axes.set_ylim(found["workers"] - 0.5, -0.5)
    axes.set_title(f"{name}: {found['span'] / 1e3:,.0f} microseconds", loc="left", fontsize=10)


def files(result: Result) -> dict[str, bytes]:
    """Return the trace of the first layer, for https://ui.perfetto.dev."""
    details = result.rows[0].facts["details"]
    return {
        "pipeline.trace.json": perfetto({name: found["events"] for name, found in details.items()})
    }


STUDY = Study(
    name="pipeline",
    summary="who lowers and who multiplies when, core by core; a trace for Perfetto",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=8,
    files=files,
)
