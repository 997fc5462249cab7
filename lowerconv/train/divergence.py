"""A run that has left the finite numbers, and where it did."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn.module import Layer, Step
from lowerconv.train.checkpoint import state

CURE = "a smaller learning rate or a longer warm-up may help; earlier checkpoints are whole"


class DivergenceError(RuntimeError):
    """The loss or a weight is not finite any more; the message names the layer."""


def check_weights(network: Layer, epoch: int) -> None:
    """Raise DivergenceError if a weight is not finite.

    The loss may not tell: ReLU turns NaN into zero.
    """
    for name, weights in state(network).items():
        if not np.isfinite(weights).all():
            raise DivergenceError(f"epoch {epoch}: {name!r} holds {_describe(weights)}; {CURE}")


def describe_divergence(network: Layer, images: np.ndarray, step: Step, loss: float) -> str:
    """Compute a batch again, and tell which layer is the first to leave the finite numbers.

    Layers are watched from outside while the network computes; none knows of it.
    """
    found: list[tuple[str, Layer, np.ndarray]] = []
    before = {}

    def watch(name: str, layer: Layer) -> None:
        forward: Any = layer.forward
        before[name] = layer, vars(layer).get("forward")

        def watched(*arguments: Any, **keywords: Any) -> Any:
            y = forward(*arguments, **keywords)
            if not found and not np.isfinite(y).all():
                found.append((name, layer, y.copy()))
            return y

        layer.forward = watched  # type: ignore[method-assign]

    for name, layer in network.layers():
        if not layer.children():
            watch(name, layer)
    try:
        network.forward(images, step)
    finally:
        for layer, own in before.values():
            del layer.forward
            if own is not None:
                layer.forward = own  # type: ignore[method-assign]
    what = f"loss is {loss} at update {step.number + 1} of the run: "
    if not found:
        return f"{what}all layers' outputs are finite, the loss alone is not; {CURE}"
    name, layer, y = found[0]
    bad = [own for own, p in layer.own_parameters().items() if not np.isfinite(p.data).all()]
    cause = f", because its {' and '.join(bad)} already did" if bad else ", from finite inputs"
    return (
        f"{what}layer {name!r} ({type(layer).__name__}) is the first whose output holds "
        f"{_describe(y)}{cause}; {CURE}"
    )


def _describe(array: np.ndarray) -> str:
    """Return which numbers that are not finite an array holds."""
    return " and ".join(
        name for name, test in (("nan", np.isnan), ("inf", np.isinf)) if test(array).any()
    )
