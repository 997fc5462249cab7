"""Initial weights."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

_PIECE = 1 << 14  # weights drawn at once


class _Undrawn(threading.local):
    """Whether a thread leaves weights undrawn: while it holds a lock of its own.

    That an interrupt cannot keep it from releasing (`lowerconv.runtime.threads`).
    """

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()


_undrawn = _Undrawn()


def undrawn() -> AbstractContextManager[Any]:
    """Leave weights at zero, where only shapes are needed or other weights follow: drawing is slow.

    Examples
    --------
    >>> from lowerconv.nn.models import vgg16
    >>> with undrawn():
    ...     network = vgg16()
    """
    lock: AbstractContextManager[Any] = _undrawn.lock
    return lock


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
    if _undrawn.lock._is_owned():
        return
    # Drawn in float64 whatever the dtype, so that both dtypes start from the same weights; and in
    # pieces that stay in the cache: those of VGG would be a gigabyte, twice.
    flat = out.reshape(-1)
    scale = np.sqrt(gain / out[0].size)
    for begin in range(0, flat.size, _PIECE):
        piece = flat[begin : begin + _PIECE]
        piece[...] = rng.standard_normal(piece.size) * scale
