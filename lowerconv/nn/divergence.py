"""A run that has left the finite numbers, and where it did."""

from __future__ import annotations

import numpy as np

from lowerconv.nn.frame import Frame
from lowerconv.nn.layer import Layer
from lowerconv.nn.module import Module
from lowerconv.nn.program import run
from lowerconv.nn.step import Step

CURE = "a smaller learning rate or a longer warm-up may help; earlier checkpoints are whole"


class DivergenceError(RuntimeError):
    """The loss or a weight is not finite any more; the message names the layer."""


def check_weights(network: Module, epoch: int) -> None:
    """Raise DivergenceError if a weight is not finite.

    The loss may not tell: ReLU turns NaN into zero.
    """
    learnt = {name: parameter.data for name, parameter in network.parameters().items()}
    for name, weights in (learnt | network.buffers()).items():
        if not np.isfinite(weights).all():
            raise DivergenceError(f"epoch {epoch}: {name!r} holds {_describe(weights)}; {CURE}")


def describe_divergence(network: Module, images: np.ndarray, step: Step, loss: float) -> str:
    """Compute a batch again, and tell which layer is the first to leave the finite numbers."""
    found: list[tuple[Layer, Frame, np.ndarray]] = []

    def look(layer: Layer, frame: Frame, phase: str) -> None:
        if not found and not np.isfinite(frame.y.values()).all():
            found.append((layer, frame, frame.y.values().copy()))

    run(network, images, step, (look,))
    what = f"loss is {loss} at update {step.number + 1} of the run: "
    if not found:
        return f"{what}all layers' outputs are finite, the loss alone is not; {CURE}"
    layer, frame, y = found[0]
    bad = [own for own, p in layer.own_parameters().items() if not np.isfinite(p.data).all()]
    cause = f", because its {' and '.join(bad)} already did" if bad else ", from finite inputs"
    return (
        f"{what}layer {frame.name!r} is the first whose output holds {_describe(y)}{cause}; {CURE}"
    )


def _describe(array: np.ndarray) -> str:
    """Return which numbers that are not finite an array holds."""
    return " and ".join(
        name for name, test in (("nan", np.isnan), ("inf", np.isinf)) if test(array).any()
    )
