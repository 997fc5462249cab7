"""Where branches meet, and where images become rows of features."""

from __future__ import annotations

from math import prod

from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.graph import OPERATORS, Value
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Shape
from lowerconv.nn.moving import move, moves_compiled
from lowerconv.nn.step import Step
from lowerconv.ops.elementwise import add, relu_grad
from lowerconv.runtime.threads import run


class Concat(Layer):
    """Channels of one value after those of another.

    Values are computed where they belong in the result, and not moved; but one that belongs in
    several results is copied.
    """

    is_concatenation = True
    takes_half = always

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the common shape with the channels of all."""
        for i, shape in enumerate(shapes):
            if len(shape) < 2 or (shape[0], *shape[2:]) != (shapes[0][0], *shapes[0][2:]):
                raise ValueError(
                    f"values[{i}]: got shape {shape}, expected that of values[0], {shapes[0]}, "
                    "but for the channels"
                )
        return (shapes[0][0], sum(shape[1] for shape in shapes), *shapes[0][2:])

    @staticmethod
    def _parts(whole: Tensor, parts: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the channels of `whole` that belong to each of `parts`."""
        found, begin = [], 0
        for part in parts:
            tensor = type(whole)(part.shape, whole.dtype, whole.image_step)
            tensor.place(whole.flat[begin:])
            begin += part.size
            found.append(tensor)
        return found

    def compute(self, frame: Frame, step: Step) -> None:
        """Copy what is not there yet."""
        if all(frame.views):
            return
        for i, part in enumerate(self._parts(frame.y, frame.xs)):
            if not frame.views[i]:
                move(frame.xs[i], part, False)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels."""
        return all(frame.views) or moves_compiled(frame.y)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Hand out the parts of the gradient that are not where they are wanted."""
        if all(frame.views_gradient):
            return
        for i, part in enumerate(self._parts(frame.gradient, frame.xs)):
            dx = frame.dxs[i]
            if dx is not None and not frame.views_gradient[i]:
                move(part, dx, frame.adds[i])


class Add(Layer):
    """The sum of two values, followed by a ReLU where there is one.

    After a convolution or batch norm it is computed there, in the same pass.
    """

    takes_relu = True
    is_sum = True
    is_capturable = takes_half = always

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the common shape."""
        a, b = shapes
        if a != b:
            raise ValueError(f"values: got shapes {a} and {b}, expected the same")
        return a

    def compute(self, frame: Frame, step: Step) -> None:
        """Add."""
        a, b = frame.xs
        run(add, a.images, b.images, frame.y.images, frame.relu)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Give the gradient to both."""
        if frame.relu:
            mask(frame.gradient, frame.y)
        for dx, adding in zip(frame.dxs, frame.adds, strict=True):
            if dx is not None:
                move(frame.gradient, dx, adding)


OPERATORS["+"] = Add


def mask(dy: Tensor, y: Tensor) -> None:
    """Zero a gradient where a ReLU did."""
    run(relu_grad, y.images, dy.images, dy.images, False)


class View(Layer):
    """The same items in another shape, without copying where they are one run.

    Parameters
    ----------
    shape : tuple of int
        Of the result.
    """

    is_view = True

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the result."""
        return self.shape

    def compute(self, frame: Frame, step: Step) -> None:
        """Do nothing, or copy."""
        if frame.views[0]:
            return
        if frame.x.N == frame.y.N:
            move(frame.x, frame.y, False)
        else:
            frame.y.array[...] = frame.x.array.reshape(frame.y.shape)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels."""
        return frame.views[0] or (frame.x.N == frame.y.N and moves_compiled(frame.x))

    def takes_half(self, frame: Frame) -> bool:
        """Return whether 16 bits are moved as they are: unless images are others."""
        return frame.x.N == frame.y.N

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Do nothing, or copy back."""
        dx = frame.dx
        if dx is None or frame.views_gradient[0]:
            return
        if dx.N == frame.gradient.N:
            move(frame.gradient, dx, frame.adds[0])
            return
        gradient = frame.gradient.array.reshape(dx.shape)
        if frame.adds[0]:
            dx.array[...] += gradient
        else:
            dx.array[...] = gradient


class Flatten(View):
    """(N, C, H, W) to (N, C*H*W), without copying where images lie together."""

    def __init__(self) -> None:
        super().__init__(())

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return one row per sample."""
        return (shapes[0][0], prod(shapes[0][1:]))


def concat(*values: Value) -> Value:
    """Return the channels of all values, one after the other, in a module's `forward`.

    Parameters
    ----------
    *values : Value
        (N, C, ...), of the same shape but for C.

    Returns
    -------
    Value
        (N, sum of C, ...).

    Raises
    ------
    ValueError
        Other extents than C differ.
    """
    return Concat()(*values)


def flatten(value: Value) -> Value:
    """Return a value with one row of features per sample, in a module's `forward`.

    Parameters
    ----------
    value : Value
        (N, C, H, W).

    Returns
    -------
    Value
        (N, C*H*W).
    """
    return Flatten()(value)
