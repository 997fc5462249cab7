"""A picture of a network: its layers from top to bottom, with the time of each as colour."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from lowerconv.onnx.explain import Explanation


def places(explanation: Explanation) -> list[tuple[float, int]]:
    """Return column and row of each layer: rows by the longest way from the input."""
    rows = [0] * len(explanation.layers)
    for source, target in explanation.edges:  # in order of targets
        rows[target] = max(rows[target], rows[source] + 1)
    width, seen = Counter(rows), Counter[int]()
    found = []
    for row in rows:
        found.append((seen[row] - (width[row] - 1) / 2, row))
        seen[row] += 1
    return found


def draw(explanation: Explanation, path: Path) -> None:
    """Write the picture; its name tells the format.

    Raises
    ------
    ImportError
        The package matplotlib is not installed.
    ValueError
        The format is not known.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "drawing needs the package matplotlib: pip install 'lowerconv[plot]'"
        ) from None
    at = places(explanation)
    times = [1e3 * (layer.seconds or 0) for layer in explanation.layers]
    scale = ScalarMappable(Normalize(0, max(times, default=0) or 1), colormaps["YlOrRd"])
    columns = [column for column, _ in at] or [0]
    height = 1 + max((row for _, row in at), default=0)
    size = (max(4, 2.2 * (max(columns) - min(columns) + 1)) + 1, 0.35 * height + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for source, target in explanation.edges:
        (x, y), (u, v) = at[source], at[target]
        axes.plot([x, u], [-y, -v], color="0.6", linewidth=0.8, zorder=1)
    for (x, y), layer, time in zip(at, explanation.layers, times, strict=True):
        text = f"{layer.operator} {'x'.join(map(str, layer.shape))}"
        box = {
            "boxstyle": "round",
            "facecolor": scale.to_rgba(np.asarray(time)),
            "edgecolor": "0.4",
        }
        axes.text(x, -y, text, ha="center", va="center", fontsize=6, bbox=box, zorder=2)
    axes.set_xlim(min(columns) - 0.6, max(columns) + 0.6)
    axes.set_ylim(-height, 1)
    axes.axis("off")
    figure.colorbar(scale, ax=axes, label="ms", shrink=0.5)
    figure.savefig(path)
