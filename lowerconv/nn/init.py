"""Initial weights."""

from __future__ import annotations

import numpy as np


def he_normal(rng: np.random.Generator, out: np.ndarray) -> None:
    """Fill weights (outputs, inputs...) so that ReLU layers keep the variance of their input.

    He, Zhang, Ren, Sun, "Delving deep into rectifiers" (2015), section 2.2: a normal distribution
    of variance 2 / fan-in.
    """
    fan_in = out[0].size
    # Drawn in float64 whatever the dtype, so that both dtypes start from the same weights.
    out[...] = rng.standard_normal(out.shape) * np.sqrt(2.0 / fan_in)
