"""A step of all ranks as a picture: what each computes, and below it what is on the wire."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lowerconv.bench.draw import DPI, HINT, Style, available
from lowerconv.bench.show import plural
from lowerconv.files import write_atomically
from lowerconv.parallel.comm.listener import LOSS, PROGRESS, UPDATE
from lowerconv.parallel.trace.chrome import (
    BACKWARD,
    DATA,
    FORWARD,
    TRANSFER,
    WAIT,
    RankTrace,
    Trace,
    lanes,
)
from lowerconv.parallel.trace.summary import summarize_all
from lowerconv.printable import drawable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

MOST = 8  # ranks in a picture
# Heights of what a rank computes, of each message, of all of them at least, and of the gap below.
BAND, LANE, WIRE, GAP = 1.0, 0.23, 0.8, 0.45
INCHES = 0.42  # of such a unit
LABEL = 7  # points

#   apart in grey too; in this order in the legend
STYLES = {
    DATA: Style("#ffffff", "....", "", ""),
    FORWARD: Style("#bfe3c9", "", "", ""),
    LOSS: Style("#f2c14e", "xxx", "", ""),
    BACKWARD: Style("#5ea3c4", "", "", ""),
    UPDATE: Style("#d9d0e6", "\\\\\\", "", ""),
    PROGRESS: Style("#e9a06b", "|||", "", ""),
    WAIT: Style("#ffffff", "////", "", ""),
    TRANSFER: Style("#4a1a4f", "", "", ""),
}
NAMES = {
    DATA: "fetching the batch",
    PROGRESS: "moving communication along",
    WAIT: "waiting for communication",
    TRANSFER: "communication under way",
}


class Bar(NamedTuple):
    """Something from `begin` to `end`, in milliseconds; labels are tried from the first on."""

    kind: str
    begin: float
    end: float
    low: float
    height: float
    labels: tuple[str, ...]


def save_picture(trace: Trace, path: Path, number: int | None = None) -> None:
    """Draw a step.

    Parameters
    ----------
    trace : Trace
    path : Path
        A PNG file.
    number : int, optional
        Of the step; default: the middle one.

    Raises
    ------
    RuntimeError
        matplotlib is not installed.
    ValueError
        No such step was recorded.
    OSError
        The file cannot be written.
    """
    numbers = [step.number for step in trace.ranks[0].steps]
    if number is None:
        number = numbers[len(numbers) // 2]
    for rank in trace.ranks:
        if number not in [step.number for step in rank.steps]:
            raise ValueError(f"step: got {number}, expected one of {numbers[0]} to {numbers[-1]}")
    if not available():
        raise RuntimeError(HINT)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = trace.ranks[:MOST]
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure, trace, shown, number)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    write_atomically(path, image.getvalue())


def _draw(figure: Figure, trace: Trace, shown: list[RankTrace], number: int) -> None:
    axes = figure.subplots()
    steps = [next(step for step in rank.steps if step.number == number) for rank in shown]
    zero, last = min(step.begin for step in steps), max(step.end for step in steps)
    length = (last - zero) / 1e6
    axes.set_xlim(0, length)
    axes.set_xlabel("time (ms); black upright lines: a step begins, or ends")
    axes.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    bars: list[Bar] = []
    ticks: dict[float, str] = {}
    whole, summaries = summarize_all(trace, number)
    bottom = -GAP
    for rank, step, summary in zip(shown, steps, summaries, strict=False):
        top = bottom + GAP
        own = list(_bars(rank, top, zero, last))
        bottom = max([top + BAND + WIRE, *(bar.low + bar.height for bar in own)])
        bars += own
        ticks[top + BAND / 2] = f"rank {rank.rank} on {drawable(rank.host)}\ncomputes"
        share = "" if summary.hidden is None else f"\n{summary.hidden:.0%} hidden"
        ticks[(top + BAND + bottom) / 2] = f"communicates{share}"
        for at in (step.begin, step.end):
            x = (at - zero) / 1e6
            axes.plot([x, x], [top, bottom], color="black", linewidth=1.2, clip_on=False)
        axes.axhline(bottom, color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.set_ylim(bottom + 0.1, -0.1)  # rank 0 is at the top
    figure.set_size_inches(14, 2.1 + INCHES * bottom)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=LABEL + 1)
    present = [kind for kind in STYLES if any(bar.kind == kind for bar in bars)]
    for kind in present:
        look = STYLES[kind]
        for bar in bars:
            if bar.kind == kind:
                width = bar.end - bar.begin
                axes.barh(bar.low, width, bar.height, bar.begin, align="edge", **_fill(look))
        axes.barh(0, 0, label=NAMES.get(kind, kind), **_fill(look))
    figure.draw_without_rendering()  # so that places are known in pixels
    _label(axes, bars)
    figure.legend(ncols=len(present), loc="outside lower center", frameon=False, fontsize=LABEL + 2)
    ranks = plural(len(trace.ranks), "rank")
    if len(shown) < len(trace.ranks):
        ranks += f" (the first {len(shown)} are shown)"
    share = "no communication"
    if whole.hidden is not None:
        share = f"{whole.hidden:.0%} of the communication hidden behind computation"
    axes.set_title(
        f"{drawable(trace.about)}: step {number} of {ranks}, {1e3 * whole.seconds:.1f} ms, {share}",
        loc="left",
        fontsize=11,
    )


def _bars(rank: RankTrace, top: float, zero: int, last: int) -> Iterable[Bar]:
    """Yield what a rank did from `zero` to `last`, in nanoseconds, cut off there."""

    def ms(at: int) -> float:
        return (min(max(at, zero), last) - zero) / 1e6

    for event in rank.events:
        if event.end > zero and event.begin < last:
            labels: tuple[str, ...] = ()
            if event.kind in (FORWARD, BACKWARD):
                where, _, layer = event.name.rpartition(" ")
                labels = (f"{layer}\n{where}", layer)
            elif event.kind == WAIT:
                labels = (f"waits for\n{event.name}", event.name)
            elif event.kind in (LOSS, UPDATE):
                labels = (f"{event.kind}\n{event.name}".strip(), event.kind)
            yield Bar(event.kind, ms(event.begin), ms(event.end), top, BAND, labels)
    sent = [s for s in rank.transfers if s.finished > zero and s.started < last]
    places = lanes(sent)
    height = max(LANE, WIRE / (1 + max(places, default=0)))
    for lane, transfer in zip(places, sent, strict=True):
        low = top + BAND + lane * height
        size = _size(transfer.nbytes)
        labels = (f"{transfer.name}, {size}", f"{transfer.name}\n{size}", transfer.name)
        short = transfer.name.rpartition(" ")[2]
        yield Bar(
            TRANSFER, ms(transfer.started), ms(transfer.finished), low, height, (*labels, short)
        )


def _fill(look: Style) -> dict[str, Any]:
    """Return a style as arguments of a bar: with thin lines, as most bars are narrow."""
    return {
        "facecolor": look.colour,
        "hatch": look.hatch,
        "edgecolor": "black",
        "linewidth": 0.3,
    }


def _size(nbytes: int) -> str:
    """Return bytes in a unit that suits them."""
    return f"{nbytes / 1e6:.3g} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.3g} kB"


def _label(axes: Axes, bars: Iterable[Bar]) -> None:
    """Write into each bar the first of its labels that fits, upright where that is too wide."""
    to_pixels = axes.transData.transform
    text: Text = axes.text(0, 0, "", fontsize=LABEL, ha="center", va="center")
    sizes: dict[str, tuple[float, float]] = {}
    found = []
    for bar in bars:
        (x0, y0), (x1, y1) = to_pixels([(bar.begin, bar.low), (bar.end, bar.low + bar.height)])
        room = abs(x1 - x0) - 3, abs(y1 - y0) - 2
        if room[0] < LABEL:
            continue
        ways = (False,) if bar.kind == TRANSFER else (False, True)
        for label, turned in [(label, turned) for label in bar.labels for turned in ways]:
            if label and label not in sizes:
                text.set_text(label)
                extent = text.get_window_extent()
                sizes[label] = extent.width, extent.height
            if label:
                width, height = sizes[label][::-1] if turned else sizes[label]
                if width <= room[0] and height <= room[1]:
                    found.append((bar, label, turned))
                    break
    text.remove()
    for bar, label, turned in found:
        look = STYLES[bar.kind]
        written = axes.text(
            (bar.begin + bar.end) / 2,
            bar.low + bar.height / 2,
            label,
            fontsize=LABEL,
            ha="center",
            va="center",
            rotation=90 if turned else 0,
            color="white" if bar.kind == TRANSFER else "black",
        )
        if look.hatch:  # letters and hatches do not mix
            written.set_bbox({"facecolor": look.colour, "edgecolor": "none", "pad": 0.8})
