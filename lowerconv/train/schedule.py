"""How the learning rate changes during a run."""

from math import cos, pi


def cosine(lr: float, step: int, steps: int) -> float:
    """Return the learning rate of one step: from `lr` down to zero along half a cosine.

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), section 3,
    without the restarts.
    """
    return lr * (1 + cos(pi * step / steps)) / 2
