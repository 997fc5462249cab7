"""What every layer is: a forward step, a backward step, and parameters with their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """What a layer may need to know about the step it is part of.

    Attributes
    ----------
    training : bool
        Layers keep what `backward` needs, and dropout drops.
    seed, number : int
        Of the run and of the step: with `first_sample` they decide what dropout drops.
    first_sample : int
        Place of ``x[0]`` in the global batch, so that a batch split over ranks loses the same
        activations as a whole one.
    """

    training: bool = False
    seed: int = 0
    number: int = 0
    first_sample: int = 0


INFERENCE = Step()


class Parameter:
    """An array that is learnt, and the gradient of the loss with respect to it."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.grad = np.zeros_like(data)


class Layer:
    """One layer.

    `forward` and `backward` return arrays that belong to the layer and stay valid until its next
    call, so that a training loop takes no fresh memory at every step; call the layer itself to get
    a result to keep.
    """

    def __init__(self) -> None:
        self._memory: dict[str, np.ndarray] = {}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the output for `x`, at inference."""
        return self.forward(x, INFERENCE).copy()

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the output for `x`."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Set the gradients of the parameters and return the gradient of the input.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss with respect to the output of the last `forward`.
        need_dx : bool
            False for a first layer, whose input is not learnt: then None is returned.
        """
        raise NotImplementedError

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the parameters anew."""

    def own_parameters(self) -> dict[str, Parameter]:
        """Return the parameters of this layer by name."""
        return {}

    def children(self) -> dict[str, Layer]:
        """Return the layers that this one is made of, by name."""
        return {}

    def layers(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Yield this layer and all below it with their names, such as ``"3.0"``."""
        yield prefix.rstrip("."), self
        for name, child in self.children().items():
            yield from child.layers(f"{prefix}{name}.")

    def parameters(self) -> dict[str, Parameter]:
        """Return all parameters by name, such as ``"3.weight"``, in the order of the layers."""
        return {
            f"{name}.{own}" if name else own: parameter
            for name, layer in self.layers()
            for own, parameter in layer.own_parameters().items()
        }

    def _array(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Return memory of this layer; a smaller batch uses the beginning of a larger one's."""
        items = prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < items or memory.dtype != dtype:
            self._memory[name] = memory = np.empty(items, dtype)
        return memory[:items].reshape(shape)


class Sequential(Layer):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer

    Examples
    --------
    >>> import numpy as np
    >>> from lowerconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))
    >>> net(np.zeros((2, 1, 8, 8), np.float32)).shape
    (2, 10)
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}]: got {layer!r}, expected a Layer")
        self._children = layers
        # Layers that draw random numbers draw different ones; the outermost container counts them.
        for stream, (_, layer) in enumerate(self.layers()):
            if hasattr(layer, "stream"):
                layer.stream = stream

    def children(self) -> dict[str, Layer]:
        """Return the layers by their place, ``"0"`` first."""
        return {str(i): layer for i, layer in enumerate(self._children)}

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the parameters of all layers anew, in order."""
        for layer in self._children:
            layer.initialize(rng)

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the output of the last layer."""
        for layer in self._children:
            x = layer.forward(x, step)
        return x

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Pass the gradient from the last layer to the first."""
        gradient: np.ndarray | None = dy
        for i, layer in reversed(list(enumerate(self._children))):
            assert gradient is not None
            gradient = layer.backward(gradient, need_dx or i > 0)
        return gradient
