"""Layers that normalise: batch norm, and local response norm."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from lowerconv.checks import integer
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.layer import Layer, always
from lowerconv.nn.module import Parameter, Shape
from lowerconv.nn.moving import move
from lowerconv.nn.step import Reducer, Step
from lowerconv.ops.batch_norm import batch_norm, channel_statistics, finish, normalise
from lowerconv.ops.batch_norm_grad import batch_norm_grad, gradient_sums, input_gradient
from lowerconv.ops.response_norm import response_norm, response_norm_grad
from lowerconv.runtime.threads import get_num_threads, parallel_region, run


class BatchNorm2d(Layer):
    """Batch norm over images and pixels; arguments as in PyTorch.

    An addition and a ReLU that follow are computed in the same pass.

    Ioffe, Szegedy, "Batch normalization: accelerating deep network training by reducing internal
    covariate shift" (2015).

    Parameters
    ----------
    num_features : int
        C.
    eps : float
        Added to the variance.
    momentum : float
        Weight of a batch in the running statistics, which inference normalises with.
    synchronized : bool
        Whether the statistics are those of all ranks' batches together, and not of each rank's own.
    dtype : dtype-like, float32 or float64
        Of parameters and statistics.

    Attributes
    ----------
    weight, bias : Parameter, (C,)
        Scale and shift.
    running_mean, running_var : ndarray, (C,)

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind or out of range.
    """

    keeps_x = True
    takes_relu = True
    takes_residual = True
    in_place = True

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        synchronized: bool = False,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        C = integer(num_features, "num_features", 1)
        if not eps > 0:
            raise ValueError(f"eps: got {eps}, expected a positive number")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum: got {momentum}, expected 0 <= momentum <= 1")
        self.eps, self.momentum, self.synchronized = float(eps), float(momentum), synchronized
        self.weight = Parameter(np.ones(C, dtype))
        self.bias = Parameter(np.zeros(C, dtype))
        self.running_mean = np.zeros(C, dtype)
        self.running_var = np.ones(C, dtype)

    @classmethod
    def of(
        cls,
        num_features: int,
        weight: np.ndarray | None,
        bias: np.ndarray | None,
        running_mean: np.ndarray | None,
        running_var: np.ndarray | None,
        **options: Any,
    ) -> BatchNorm2d:
        """Return a layer with given arrays, which are not copied; with its own where None.

        Parameters
        ----------
        num_features : int
            C.
        weight, bias : ndarray or None, (C,)
        running_mean, running_var : ndarray or None, (C,)
            Both or neither.
        **options
            The other arguments of the class.

        Returns
        -------
        BatchNorm2d
        """
        layer = cls(num_features, **options)
        if weight is not None:
            layer.weight = Parameter(weight)
        if bias is not None:
            layer.bias = Parameter(bias)
        if running_mean is not None and running_var is not None:
            layer.running_mean, layer.running_var = running_mean, running_var
        return layer

    def initialize(self, rng: np.random.Generator) -> None:
        """Begin without scaling or shifting, and forget the statistics."""
        self.weight.data[:] = self.running_var[:] = 1
        self.bias.data[:] = self.running_mean[:] = 0

    def own_buffers(self) -> dict[str, np.ndarray]:
        """Return the running statistics."""
        return {"running_mean": self.running_mean, "running_var": self.running_var}

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the operand."""
        (shape,) = shapes
        C = self.weight.data.size
        if len(shape) != 4 or shape[1] != C:
            raise ValueError(f"x: got shape {shape}, expected (N, {C}, H, W)")
        return shape

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return the batch's statistics."""
        C, kind = shapes[0][1], np.dtype(np.float64)
        return {"mean": ((C,), kind), "inv_std": ((C,), kind)}

    def scale_and_shift(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale and the shift of the running statistics, with the learnt ones."""
        scale = self.weight.data / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        return scale, self.bias.data - self.running_mean * scale

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a batch norm that does this one and then a scaling, at inference."""
        found = following.scale_and_shift(len(self.weight.data))
        if found is None:
            return None
        scale, shift = found
        kind, both = self.weight.data.dtype, copy(self)
        both.weight = Parameter((self.weight.data * scale).astype(kind))
        both.bias = Parameter((self.bias.data * scale + shift).astype(kind))
        return both

    def prepare(self, frame: Frame) -> None:
        """Have the running statistics as the kernel takes them, where they never change."""
        if frame.constant:
            frame.prepared["running"] = self._running()

    def _running(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the running mean, and one over the running standard deviation."""
        inv_std = 1 / np.sqrt(self.running_var.astype(np.float64) + self.eps)
        return self.running_mean.astype(np.float64), inv_std

    def compute(self, frame: Frame, step: Step) -> None:
        """Normalise by the batch's statistics, or at inference by the running ones."""
        x = frame.x
        operands = x.images, frame.y.images, _or_none(frame.residual, x)
        running = self.running_mean, self.running_var
        parameters = self.weight.data, self.bias.data, *running, self.eps, self.momentum
        if not step.training:
            with parallel_region(get_num_threads()) as team:  # where no thread trains: both change
                statistics = frame.prepared.get("running") or self._running()
                normalise(team, operands, statistics, parameters, frame.relu)
            return
        statistics = mean, _ = frame.saved["mean"], frame.saved["inv_std"]
        if not self.synchronized or step.communicator is None:
            run(batch_norm, operands, statistics, parameters, frame.relu)
            return
        N, C, H, W = x.shape
        m2 = np.empty(C)
        run(channel_statistics, x.images, mean, m2)
        count = _merged(step.communicator, N * H * W, mean, m2)
        with parallel_region(get_num_threads()) as team:
            finish(statistics, m2, count, parameters, 0, C)
            normalise(team, operands, statistics, parameters, frame.relu)

    def is_capturable(self, frame: Frame) -> bool:
        """Return whether `compute` only launches kernels, at inference."""
        return "running" in frame.prepared

    def takes_half(self, frame: Frame) -> bool:
        """Return whether kernels take 16 bits: where all tensors have as many."""
        return frame.stored_alike

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradients of scale, shift, operand and residual."""
        x, y, dy = frame.x, frame.y, frame.gradient
        # Where a gradient is added to another, what is added comes to be in place of dy.
        dx = frame.dx if frame.dx is not None and not frame.adds[0] else dy
        residual = _or_none(frame.dresidual, x)
        operands = dy.images, y.images, x.images, dx.images, residual
        statistics = frame.saved["mean"], frame.saved["inv_std"]
        gamma, dgamma, dbeta = self.weight.data, self.weight.grad, self.bias.grad
        relu, add = frame.relu, frame.add_residual
        if not self.synchronized or step.communicator is None:
            run(batch_norm_grad, operands, statistics, gamma, dgamma, dbeta, relu, add)
        else:
            N, C, H, W = x.shape
            sums = np.empty((2, C))
            run(gradient_sums, operands, statistics, sums, relu, add)
            dbeta[:], dgamma[:] = sums  # of this rank: those of all are added up with the others
            together = np.append(sums, float(N * H * W))  # one message
            step.communicator.sum_array(together)
            sums[:], count = together[:-1].reshape(2, C), int(together[-1])
            run(input_gradient, operands, statistics, gamma, sums, count, relu)
        if frame.dx is not None and frame.adds[0]:
            move(dx, frame.dx, True)


def _or_none(tensor: Tensor | None, x: Tensor) -> tuple[Any, ...]:
    """Return a tensor's images; of none, images without memory and of the dtype of `x`."""
    return (x.flat[:0], *x.images[1:]) if tensor is None else tensor.images


def _merged(communicator: Reducer, count: int, mean: np.ndarray, m2: np.ndarray) -> int:
    """Replace each rank's mean and squared deviations by those of all; return the pixels of all.

    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """
    own = mean.copy()
    together = np.append(count * mean, float(count))  # one message
    communicator.sum_array(together)
    total = int(together[-1])
    mean[:] = together[:-1] / max(1, total)
    m2 += count * (own - mean) ** 2
    communicator.sum_array(m2)
    return total


class LocalResponseNorm(Layer):
    """Local response norm over channels; arguments as in PyTorch.

    ``y = x / (k + alpha / size * (sum of x^2 over `size` channels around))^beta``; Krizhevsky,
    Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks" (2012),
    section 3.3.

    Parameters
    ----------
    size : int
        Channels of the window.
    alpha, beta, k : float
    """

    keeps_x = True
    takes_half = always

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = integer(size, "size", 1)
        self.alpha, self.beta, self.k = float(alpha), float(beta), float(k)

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the operand."""
        if len(shapes[0]) != 4:
            raise ValueError(f"x: got shape {shapes[0]}, expected (N, C, H, W)")
        return shapes[0]

    def compute(self, frame: Frame, step: Step) -> None:
        """Normalise."""
        run(response_norm, frame.x.images, frame.y.images, self.window)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Compute the gradient of the operand."""
        x, dy, dx = frame.x, frame.gradient, frame.dx
        if dx is not None:
            window = self.window
            run(response_norm_grad, dy.images, x.images, dx.images, window, frame.adds[0])

    @property
    def window(self) -> tuple[int, float, float, float]:
        """What kernels take: an `ops.response_norm.Window`."""
        return self.size, self.alpha, self.beta, self.k
