"""Resizing images by nearest pixels, linearly or cubically, in every convention of coordinates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Shape
from lowerconv.nn.step import Step
from lowerconv.ops.resize import resize, resize_grad
from lowerconv.runtime.threads import run

# Where a pixel of the result lies in the input: of its number, the scale (output / input), and
# both extents.  By ONNX's names; PyTorch has the first two, and "asymmetric" for nearest.
COORDINATES: dict[str, Callable[..., np.ndarray]] = {
    "half_pixel": lambda i, scale, n, m: (i + 0.5) / scale - 0.5,
    "align_corners": lambda i, scale, n, m: i * (n - 1) / (m - 1) if m > 1 else 0 * i,
    "asymmetric": lambda i, scale, n, m: i / scale,
    "pytorch_half_pixel": lambda i, scale, n, m: (i + 0.5) / scale - 0.5 if m > 1 else 0 * i,
    "half_pixel_symmetric": lambda i, scale, n, m: (
        n / 2 * (1 - m / (n * scale)) + (i + 0.5) / scale - 0.5
    ),
}
NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def taps(
    n: int,
    m: int,
    scale: float,
    mode: str,
    coordinates: str | Callable[..., np.ndarray],
    nearest: str = "round_prefer_floor",
    cubic: float = -0.75,
    exclude_outside: bool = False,
    antialias: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which pixels of an axis each pixel of the result is made of, and their weights.

    Parameters
    ----------
    n, m : int
        Pixels of the input and of the result.
    scale : float
        Of the result over the input.
    mode : str
        "nearest", "linear" or "cubic".
    coordinates, nearest : str
        Of `COORDINATES` and `NEAREST`; or a function as those of the first.
    cubic : float
        The coefficient of the cubic.
    exclude_outside : bool
        Whether pixels beyond the border weigh nothing; else they are those at the border.
    antialias : bool
        Whether a smaller result is made of all pixels that it covers.

    Returns
    -------
    (ndarray, ndarray), (m, taps) each
        Numbers of pixels, int64, and weights, float64.
    """
    place = COORDINATES[coordinates] if isinstance(coordinates, str) else coordinates
    at = place(np.arange(m, dtype=np.float64), scale, n, m)
    if mode == "nearest":
        index = NEAREST[nearest](at).astype(np.int64)
        return np.clip(index, 0, n - 1)[:, None], np.ones((m, 1))
    reach = 1 if mode == "linear" else 2
    narrow = min(1.0, scale) if antialias else 1.0
    wide = int(np.ceil(reach / narrow))
    index = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - wide, wide + 1)
    distance = np.abs(at[:, None] - index) * narrow
    if mode == "linear":
        weights = np.maximum(0, 1 - distance)
    else:
        a, d = cubic, distance
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        weights = np.where(d <= 1, near, np.where(d < 2, far, 0))
    if exclude_outside:
        weights = np.where((index < 0) | (index >= n), 0, weights)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.clip(index, 0, n - 1), weights


class Resize(Layer):
    """Images with other numbers of rows and columns.

    Parameters
    ----------
    rows, columns : (ndarray, ndarray)
        What `taps` returns for each axis.

    Attributes
    ----------
    fit : callable or None
        Makes the layer for another shape of the operand, where its extents are not told but follow
        from that.
    """

    is_capturable = always
    fit: Callable[[Shape], Layer] | None = None

    def __init__(
        self, rows: tuple[np.ndarray, np.ndarray], columns: tuple[np.ndarray, np.ndarray]
    ) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return (N, C, P, Q)."""
        if len(shapes[0]) != 4:
            raise ValueError(f"x: got shape {shapes[0]}, expected (N, C, H, W)")
        return (*shapes[0][:2], len(self.rows[0]), len(self.columns[0]))

    def fitted(self, *shapes: Shape) -> Layer:
        """Return the layer for an operand of another shape."""
        return self if self.fit is None else self.fit(shapes[0])

    def prepare(self, frame: Frame) -> None:
        """Have the weights in the network's dtype."""
        frame.prepared["taps"] = tuple(
            (np.ascontiguousarray(index), weights.astype(frame.dtype))
            for index, weights in (self.rows, self.columns)
        )

    def compute(self, frame: Frame, step: Step) -> None:
        """Resize."""
        run(resize, frame.x.images, frame.y.images, *frame.prepared["taps"])

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Give each pixel its part of the gradients of all pixels made of it."""
        dy, dx = frame.gradient, frame.dx
        if dx is None:
            return
        if not frame.adds[0]:
            dx.array[...] = 0
        run(resize_grad, dy.images, dx.images, *frame.prepared["taps"])
