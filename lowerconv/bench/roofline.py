"""The roofline (Williams, Waterman, Patterson 2009): layers under what memory and FMA units give.

A pass of a layer cannot move less than its operands and its result, each once; FLOP per byte of
that traffic is where it stands.  MobileNet's depthwise layers stand far left, GoogLeNet's right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from lowerconv.bench import draw
from lowerconv.bench.bandwidth import memory_bandwidth
from lowerconv.bench.case import Case, Options, layer_cases
from lowerconv.bench.result import Result, Row
from lowerconv.bench.show import NONE, caption, left_out, new_table, ordered, title
from lowerconv.bench.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORKS = ("googlenet", "mobilenet_v1")


def cases(options: Options) -> list[Case]:
    """Return every layer and pass of the networks."""
    return [case for network in NETWORKS for case in layer_cases(network, options)]


def bandwidth(result: Result) -> float:
    """Return the most that memory gave, in bytes per second."""
    return max(result.conditions["read"], result.conditions["triad"])


def intensity(row: Row) -> float:
    """Return FLOP per byte of compulsory traffic."""
    return row.facts["flops"] / row.facts["bytes"]


def roof(result: Result, flop_per_byte: float) -> float:
    """Return the most FLOP/s that the machine gives at an intensity."""
    return min(result.conditions["peak"], bandwidth(result) * flop_per_byte)


def tables(result: Result) -> list[Table]:
    """Return GFLOP/s of each layer and algorithm, and their share of the roof."""
    names = ordered(result)
    made = []
    for network in result.values("network"):
        for op in result.values("pass"):
            table = new_table(
                f"{network}, {op}: GFLOP/s (% of the roof)",
                ["layer"],
                ["FLOP/byte", "roof", *map(title, names)],
            )
            for row in result.where(network=network, **{"pass": op}):
                most = roof(result, intensity(row))
                table.add_row(
                    row.labels["layer"],
                    f"{intensity(row):.1f}",
                    f"{most / 1e9:.0f}",
                    *(
                        f"{row.speed(name) / 1e9:.1f} ({row.speed(name) / most:.0%})"
                        if name in row.seconds
                        else NONE
                        for name in names
                    ),
                )
            made.append(table)
    return made


def notes(result: Result) -> list[str]:
    """Return the lines below the tables."""
    given = result.conditions
    return [
        *caption(result),
        *left_out(result),
        f"memory: {given['read'] / 1e9:.0f} GB/s read, {given['triad'] / 1e9:.0f} GB/s triad; the "
        f"larger one is the roof up to {given['peak'] / bandwidth(result):.1f} FLOP/byte, then the "
        "FMA peak",
        "bytes: operands and result, each once; the last cache may serve what fits in it faster "
        "than memory does, so that a layer passes the roof",
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw a dot for each layer, pass and algorithm under the roof; hollow ones are MobileNet's."""
    axes = figure.subplots()
    figure.set_size_inches(10, 6.5)
    points = [intensity(row) for row in result.rows]
    low, high = min(points) / 2, max(points) * 2
    ridge = result.conditions["peak"] / bandwidth(result)
    line = sorted({min(low, ridge / 4), ridge, max(high, ridge * 4)})
    axes.plot(line, [roof(result, at) / 1e9 for at in line], color="black", linewidth=1.5)
    networks = result.values("network")
    for place, name in enumerate(ordered(result)):
        look = draw.style(name, place)
        for network in networks:
            rows = [row for row in result.where(network=network) if name in row.seconds]
            filled = network == networks[0]
            axes.plot(
                [intensity(row) for row in rows],
                [row.speed(name) / 1e9 for row in rows],
                look.marker,
                linestyle="none",
                color=look.colour if filled else "white",
                markeredgecolor="black",
                markeredgewidth=0.6 if filled else 1.4,
                markersize=7,
                label=f"{title(name)}, {network}" if rows else None,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    peak = result.conditions["peak"] / 1e9
    for text, at, offset, side in (
        (f"FMA peak, measured: {peak:.0f} GFLOP/s", line[-1], (0, 4), "right"),
        (
            f"memory, measured: {bandwidth(result) / 1e9:.0f} GB/s",
            (line[0] * ridge) ** 0.5,
            (-12, 6),
            "right",
        ),
    ):
        axes.annotate(
            text,
            (at, roof(result, at) / 1e9),
            xytext=offset,
            textcoords="offset points",
            ha=side,
        )
    axes.set_ylim(top=2 * peak)
    axes.set_xlabel("FLOP per byte of compulsory traffic")
    axes.set_ylabel("GFLOP/s")
    axes.grid(which="both", alpha=0.25)
    figure.legend(ncols=max(2, len(ordered(result))), loc="outside lower center", fontsize=8)
    figure.suptitle(draw.heading("Roofline", result))


STUDY = Study(
    name="roofline",
    summary="FLOP/s over FLOP per byte, under the measured peaks of memory and FMA units",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=32,
    passes=("forward",),
    conditions=memory_bandwidth,
)
