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

    figure = Figure(figsize=(10, 6), layout="constrained")
    rows = figure.subplots(2, 2, sharex="col", sharey="row", width_ratios=(4, 1))
    for (over_time, counts), name, latencies, look in (
        (rows[0], "answer", report.answers, style("pipelined")),
        (rows[1], "end to end", report.whole, style("paired")),
    ):
        at, worst = slowest(latencies)
        over_time.plot(at, 1e3 * worst, color=look.colour, linewidth=0.8)
        counts.hist(1e3 * latencies.kept, bins=40, orientation="horizontal", color=look.colour)
        values = dict(zip(("p50", "p90", "p99"), latencies.percentiles(), strict=True))
        for share, line in (("p50", "-"), ("p99", "--")):
            for axes in (over_time, counts):
                axes.axhline(1e3 * values[share], color="black", linewidth=0.8, linestyle=line)
        values["max"] = latencies.worst
        told = ", ".join(f"{key} {1e3 * value:.2f}" for key, value in values.items())
        over_time.set_title(f"{name}: {told} ms", loc="left", fontsize=10)
        over_time.set_ylabel("ms")
        over_time.set_ylim(0)
        for axes in (over_time, counts):
            axes.grid(alpha=0.3)
    rows[1][0].set_xlabel("frame (lines: p50, and p99 broken)")
    rows[1][1].set_xlabel("frames")
    figure.suptitle(str(report).partition("\n")[0])
    figure.savefig(path, dpi=DPI)


def slowest(latencies: Latencies) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of frames, and the slowest of those around each: as many as can be seen."""
    kept = latencies.kept
    width = -(-len(kept) // POINTS)
    starts = np.arange(0, len(kept), width)
    return starts * latencies.step, np.maximum.reduceat(kept, starts)
