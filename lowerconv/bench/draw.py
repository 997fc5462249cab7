"""What the pictures have in common: colours, bars, files.

Colours differ in lightness, and each goes with a hatch, a marker and a line of its own, so that a
print in grey can be read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lowerconv.bench.result import Result
from lowerconv.bench.show import plural, title
from lowerconv.bench.study import Study
from lowerconv.train.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HINT = 'matplotlib is not installed: pip install "lowerconv[plot]"'
DPI = 130


class Style(NamedTuple):
    """How something looks in every picture."""

    colour: str
    hatch: str
    marker: str
    line: str


#                     colour, from light to dark; hatch; marker; line
STYLES = {
    "published": Style("#ffffff", "////", "x", ":"),
    "direct": Style("#f2e08a", "", "v", ":"),
    "lowering": Style("#8fc7a1", "....", "s", "--"),
    "pipelined": Style("#3f87a6", "\\\\\\\\", "^", "-."),
    "paired": Style("#8a3a5f", "++", "P", "-."),
    "fused": Style("#2d1152", "", "o", "-"),
}
OTHERS = (  # whatever else there is, in this order
    Style("#c9b8dc", "xx", "D", "--"),
    Style("#e9a06b", "--", "*", ":"),
    Style("#5c5c5c", "||", "X", "-"),
)


def style(name: str, place: int = 0) -> Style:
    """Return the style of a name, or of a place where the name has none."""
    return STYLES.get(name, OTHERS[place % len(OTHERS)])


def available() -> bool:
    """Return whether pictures can be drawn here."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def save_picture(study: Study, result: Result, directory: Path) -> list[Path]:
    """Draw a result into ``DIRECTORY/TABLE.png``; return it and the other files of the table.

    Raises
    ------
    RuntimeError
        matplotlib is not installed.
    OSError
        The file cannot be written.
    """
    if not available():
        raise RuntimeError(HINT)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    study.draw(result, figure)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    contents = {f"{study.name}.png": image.getvalue(), **study.files(result)}
    for name, content in contents.items():
        write_atomically(directory / name, content)
    return [directory / name for name in contents]


def heading(what: str, result: Result) -> str:
    """Return the title of a picture: what was measured, and on what."""
    threads, batch = result.setting["threads"], result.setting["batch"]
    return f"{what}: {result.machine['cpu']['name']}, {plural(threads, 'thread')}" + (
        f", batch {batch}" if batch is not None else ""
    )


def grouped_bars(
    axes: Axes,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    labels: Mapping[str, str] | None = None,
    number: Callable[[float], str] | None = None,
) -> None:
    """Draw a group of bars for each place of the series, a bar of each series in it.

    Parameters
    ----------
    axes : Axes
    groups : sequence of str
        Names below the groups.
    series : mapping of str to sequence of float or None
        Heights; None leaves the place empty.
    labels : mapping of str to str, optional
        For the legend, where the name does not do.
    number : callable, optional
        Writes heights as they stand over the bars.
    """
    width = 0.84 / len(series)
    for place, (name, heights) in enumerate(series.items()):
        look = style(name, place)
        offset = (place - (len(series) - 1) / 2) * width
        there = [(i, height) for i, height in enumerate(heights) if height is not None]
        bars = axes.bar(
            [i + offset for i, _ in there],
            [height for _, height in there],
            width,
            label=(labels or {}).get(name, title(name)),
            **fill(look),
        )
        if number is not None:
            axes.bar_label(bars, fmt=number, fontsize=8, padding=3, rotation=90)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def fill(look: Style) -> dict[str, Any]:
    """Return a style as arguments of a bar."""
    return {"color": look.colour, "hatch": look.hatch, "edgecolor": "black", "linewidth": 0.6}
