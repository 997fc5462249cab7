"""How every algorithm gains from threads: two networks, from one thread to all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rich.table import Table

from lowerconv.bench import draw
from lowerconv.bench.case import SLOW, Case, Options, able, layer_facts, selected
from lowerconv.bench.cases import Layer
from lowerconv.bench.interleaved import Run
from lowerconv.bench.passes import BACKWARD, arrays_of, flops, planned_run
from lowerconv.bench.result import Result, Row, total
from lowerconv.bench.show import caption, ms, new_table, percent, times, title
from lowerconv.bench.study import Study
from lowerconv.conv.plan import algorithms
from lowerconv.runtime.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = ("cifar10_quick", "googlenet")


def thread_counts(most: int) -> list[int]:
    """Return the numbers of threads up to `most`: all, or some where there are many."""
    if most <= 8:
        return list(range(1, most + 1))
    steps = [count for power in range(9) for count in (2**power, 3 * 2**power) if count < most]
    return [*sorted(steps), most]


def cases(options: Options) -> list[Case]:
    """Return a case for each network, algorithm, layer and pass; candidates are thread counts.

    An algorithm takes part where it takes every layer of the network, the loop nest where none is
    too large for it, so that the sums of a network are of all its layers.
    """
    names = tuple(map(str, thread_counts(options.threads)))
    found = []
    for network in NETWORKS:
        chosen = selected(network, options)
        for algorithm in algorithms():
            work = [flops(layer, options.images, op) for layer in chosen for op in options.passes]
            if algorithm == "direct" and max(work, default=0) > SLOW:
                continue
            if any(algorithm not in able(layer, options.images) for layer in chosen):
                continue
            found += [
                Case(
                    {"network": network, "algorithm": algorithm, "layer": layer.name, "pass": op},
                    names,
                    partial(_runs, layer, options.images, op, algorithm),
                    layer_facts(layer, options.images, op),
                )
                for layer in chosen
                for op in options.passes
            ]
    return found


def _runs(
    layer: Layer, batch: int, op: str, algorithm: str, names: Iterable[str]
) -> dict[str, Run]:
    arrays = arrays_of(layer, batch, op)
    before = get_num_threads()
    runs = {}
    try:
        for name in names:  # a plan keeps the threads that it was made for
            set_num_threads(int(name))
            runs[name] = planned_run(layer, batch, op, algorithm, arrays)
    finally:
        set_num_threads(before)
    return runs


def speed_up(rows: Sequence[Row], name: str) -> float | None:
    """Return the time of all rows on one thread over that on `name` threads."""
    single, several = total(rows, "1"), total(rows, name)
    return single / several if single is not None and several is not None else None


def tables(result: Result) -> list[Table]:
    """Return the speed-ups of each network, pass and algorithm."""
    names = result.names
    table = new_table(
        "speed-up over one thread",
        ["network", "pass", "algorithm"],
        ["1 thread\nms", *names[1:], f"% of peak\nat {names[-1]}"],
    )
    peak = result.conditions["peak"]
    for network in result.values("network"):
        for op in result.values("pass"):
            for algorithm in result.values("algorithm"):
                rows = result.where(network=network, algorithm=algorithm, **{"pass": op})
                if rows:
                    table.add_row(
                        network,
                        op,
                        title(algorithm),
                        ms(total(rows, "1")),
                        *(times(speed_up(rows, name)) for name in names[1:]),
                        percent(_share(rows, names[-1], peak)),
                    )
        table.add_section()
    return [table]


def _share(rows: Sequence[Row], name: str, peak: float) -> float | None:
    """Return the FLOP/s of all rows together as a share of the peak."""
    seconds = total(rows, name)
    return None if seconds is None else sum(row.facts["flops"] for row in rows) / seconds / peak


def notes(result: Result) -> list[str]:
    """Return the lines below the table."""
    most, peak = result.names[-1], result.conditions["peak"]
    without = [
        n for n in result.values("network") if not result.where(network=n, algorithm="direct")
    ]
    shares: dict[str, float] = {}
    for name in result.values("algorithm"):
        shares[name] = _share(result.where(algorithm=name), most, peak) or 0.0
    best = max(shares, key=shares.__getitem__)
    return [
        *caption(result, f"{best}: {shares[best]:.0%} of it, all layers together"),
        "columns: threads; times are sums over the layers; forward, or both gradients (backward)",
        *(f"{network}: the loop nest (direct) is left out, as too slow" for network in without),
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw speed-up over threads, a panel for each network and pass."""
    networks, passes = result.values("network"), result.values("pass")
    counts = [int(name) for name in result.names]
    panels = figure.subplots(len(networks), len(passes), squeeze=False, sharex=True, sharey=True)
    figure.set_size_inches(1.5 + 4.2 * len(passes), 1.2 + 3.3 * len(networks))
    for network, line in zip(networks, panels, strict=True):
        for op, axes in zip(passes, line, strict=True):
            axes.plot(counts, counts, color="0.6", linewidth=1, label="one per thread")
            for place, algorithm in enumerate(result.values("algorithm")):
                rows = result.where(network=network, algorithm=algorithm, **{"pass": op})
                if rows:
                    look = draw.style(algorithm, place)
                    axes.plot(
                        counts,
                        [speed_up(rows, name) for name in result.names],
                        look.line,
                        color=look.colour,
                        marker=look.marker,
                        markeredgecolor="black",
                        label=title(algorithm),
                    )
            axes.set_title(f"{network}, {op}")
            axes.set_xticks(counts)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
    for axes in panels[-1]:
        axes.set_xlabel("threads")
    for axes in panels[:, 0]:
        axes.set_ylabel("speed-up over one thread")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="outside lower center", frameon=False)
    figure.suptitle(draw.heading("Threads", result))


STUDY = Study(
    name="threads",
    summary="speed-up over one thread: two networks, every algorithm",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=32,
    passes=("forward", BACKWARD),
)
