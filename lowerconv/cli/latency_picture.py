"""A picture of the latencies of a stream: over time, and how often each occurred."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lowerconv.bench.draw import DPI, HINT, available, style
from lowerconv.bench.latencies import Latencies
from lowerconv.cli.stream_report import StreamReport

POINTS = 1500  # of a curve: more than there are columns of pixels


def check_picture(path: Path) -> None:
    """Find out before the stream begins whether there can be a picture after it.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, OSError
        It draws no such format; there is no such folder.
    """
    if not available():
        raise ImportError(f"--plot: {HINT}")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    formats = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise ValueError(
            f"--plot: got {path}, expected a name that ends in one of {_dots(formats)}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--plot: {path.parent}: no such folder")


def _dots(formats: dict[str, str]) -> str:
    return ", ".join(f".{name}" for name in sorted(formats))


def draw(report: StreamReport, path: Path) -> None:
    """Write the picture; its name tells the format.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    over_time, counts = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    kept = 1e3 * report.answers.kept.astype(np.float64)
    for latencies, name, look in (
        (report.whole, "end to end", style("direct")),
        (report.answers, "answer", style("pipelined")),
    ):
        at, worst = slowest(latencies)
        over_time.plot(at, 1e3 * worst, label=name, color=look.colour, linewidth=0.8)
    for share, value in zip(("p50", "p90", "p99"), report.answers.percentiles(), strict=True):
        for axes in (over_time, counts):
            axes.axhline(1e3 * value, color="0.35", linewidth=0.8, linestyle="--")
        text = f"{share} {1e3 * value:.2f} ms"
        counts.annotate(text, (1, 1e3 * value), xycoords=("axes fraction", "data"), fontsize=8)
    counts.hist(kept, bins=60, orientation="horizontal", color=style("pipelined").colour)
    over_time.set_xlabel("frame")
    over_time.set_ylabel("ms")
    over_time.set_ylim(0)
    over_time.legend(loc="upper right")
    counts.set_xlabel("answers")
    for axes in (over_time, counts):
        axes.grid(alpha=0.3)
    figure.suptitle(str(report).partition("\n")[0])
    figure.savefig(path, dpi=DPI)


def slowest(latencies: Latencies) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of frames, and the slowest of those around each: as many as can be seen."""
    kept = latencies.kept
    width = -(-len(kept) // POINTS)
    starts = np.arange(0, len(kept), width)
    return starts * latencies.step, np.maximum.reduceat(kept, starts)
