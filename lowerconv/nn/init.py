"""Initial weights."""

from __future__ import annotations

import numpy as np


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
    # Drawn in float64 whatever the dtype, so that both dtypes start from the same weights.
    out[...] = rng.standard_normal(out.shape) * np.sqrt(gain / out[0].size)
