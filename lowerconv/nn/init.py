"""Initial weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

_PIECE = 1 << 14  # weights drawn at once
_drawing = ContextVar("_drawing", default=True)


@contextmanager
def undrawn() -> Iterator[None]:
    """Leave weights at zero, for who wants but their shapes or fills them: drawing takes seconds.

    Examples
    --------
    >>> from lowerconv.nn.models import vgg16
    >>> with undrawn():
    ...     network = vgg16()
    """
    before = _drawing.set(False)
    try:
        yield
    finally:
        _drawing.reset(before)


def he_normal(rng: np.random.Generator, out: np.ndarray) -> None:
    """Fill weights (outputs, inputs...) so that, with ReLU, activations keep their scale.

    He, Zhang, Ren, Sun, "Delving deep into rectifiers" (2015), section 2.2: a normal distribution
    of variance 2 / fan-in.
    """
    _normal(rng, out, 2.0)


def lecun_normal(rng: np.random.Generator, out: np.ndarray) -> None:
    """Fill weights (outputs, inputs...) so that, without ReLU, activations keep their scale.

    LeCun, Bottou, Orr, Müller, "Efficient backprop" (1998), section 4.6: variance 1 / fan-in.
    """
    _normal(rng, out, 1.0)


def _normal(rng: np.random.Generator, out: np.ndarray, gain: float) -> None:
    if not _drawing.get():
        return
    # Drawn in float64 whatever the dtype, so that both dtypes start from the same weights; and in
    # pieces that stay in the cache: those of VGG would be a gigabyte, twice.
    flat = out.reshape(-1)
    scale = np.sqrt(gain / out[0].size)
    for begin in range(0, flat.size, _PIECE):
        piece = flat[begin : begin + _PIECE]
        piece[...] = rng.standard_normal(piece.size) * scale
