"""Pooling layers."""

from __future__ import annotations

import numpy as np
from numba import njit

from lowerconv.checks import Pair, pair
from lowerconv.kernels.call import share, spread
from lowerconv.kernels.im2col import inside
from lowerconv.machine.threads import get_num_threads, parallel_region
from lowerconv.nn.module import Layer, Step

PLANE_LIMIT = 2**31 - 1  # places in a plane are kept as 32-bit integers


@njit(cache=True, nogil=True)
def _window(i, size, stride, pad, extent):
    """Return the part of window `i` that lies inside the image."""
    start = i * stride - pad
    return max(start, 0), min(start + size, extent)


@njit(cache=True, nogil=True)
def _keep_larger(image, first, stride, count, best, winner, at):
    """Let pixels ``first, first + stride, ...`` win against ``best[at:]``; NaN always wins.

    Indices are unsigned, and the winner is selected and not branched to, so that this is vector
    code; the strides that networks use have loops of their own for the same reason.
    """
    first, stride, at = np.uint64(first), np.uint64(stride), np.uint64(at)
    one, two = np.uint64(1), np.uint64(2)
    if stride == one:
        for i in range(np.uint64(0), np.uint64(count)):
            pixel = image[first + i]
            wins = (pixel > best[at + i]) | (pixel != pixel)
            best[at + i] = pixel if wins else best[at + i]
            winner[at + i] = np.int32(first + i) if wins else winner[at + i]
    elif stride == two:
        for i in range(np.uint64(0), np.uint64(count)):
            pixel = image[first + two * i]
            wins = (pixel > best[at + i]) | (pixel != pixel)
            best[at + i] = pixel if wins else best[at + i]
            winner[at + i] = np.int32(first + two * i) if wins else winner[at + i]
    else:
        for i in range(np.uint64(0), np.uint64(count)):
            pixel = image[first + stride * i]
            wins = (pixel > best[at + i]) | (pixel != pixel)
            best[at + i] = pixel if wins else best[at + i]
            winner[at + i] = np.int32(first + stride * i) if wins else winner[at + i]


@njit(cache=True, nogil=True)
def _max_pool_share(worker, workers, x, size, stride, pad, y, winner):
    """`winner` is the place of each maximum in its plane, for the way back."""
    planes, H, W = x.shape
    _, P, Q = y.shape
    first, last = share(planes, worker, workers)
    for plane in range(first, last):
        image = x[plane].reshape(H * W)
        for p in range(P):
            best, at = y[plane, p], winner[plane, p]
            h0, h1 = _window(p, size[0], stride[0], pad[0], H)
            for q in range(Q):  # the first pixel of each window
                at[q] = h0 * W + max(0, q * stride[1] - pad[1])
                best[q] = image[at[q]]
            for h in range(h0, h1):
                for s in range(size[1]):
                    lo, hi = inside(W, s - pad[1], stride[1], Q)
                    first = h * W + lo * stride[1] + s - pad[1]
                    _keep_larger(image, first, stride[1], hi - lo, best, at, lo)


@njit(cache=True, nogil=True)
def _max_pool(team, x, size, stride, pad, y, winner):
    spread(team, _max_pool_share, (x, size, stride, pad, y, winner))


@njit(cache=True, nogil=True)
def _max_pool_grad_share(worker, workers, dy, winner, dx):
    planes, _, W = dx.shape
    _, P, Q = dy.shape
    first, last = share(planes, worker, workers)
    for plane in range(first, last):
        dx[plane] = 0
        for p in range(P):
            for q in range(Q):
                at = winner[plane, p, q]
                dx[plane, at // W, at % W] += dy[plane, p, q]


@njit(cache=True, nogil=True)
def _max_pool_grad(team, dy, winner, dx):
    spread(team, _max_pool_grad_share, (dy, winner, dx))


@njit(cache=True, nogil=True)
def _avg_pool_share(worker, workers, x, size, stride, pad, count_pad, y):
    planes, H, W = x.shape
    _, P, Q = y.shape
    first, last = share(planes, worker, workers)
    for plane in range(first, last):
        for p in range(P):
            h0, h1 = _window(p, size[0], stride[0], pad[0], H)
            rows = _counted(p, size[0], stride[0], pad[0], H, count_pad)
            for q in range(Q):
                w0, w1 = _window(q, size[1], stride[1], pad[1], W)
                columns = _counted(q, size[1], stride[1], pad[1], W, count_pad)
                total = x.dtype.type(0)
                for h in range(h0, h1):
                    for w in range(w0, w1):
                        total += x[plane, h, w]
                y[plane, p, q] = total / x.dtype.type(rows * columns)


@njit(cache=True, nogil=True)
def _avg_pool(team, x, size, stride, pad, count_pad, y):
    spread(team, _avg_pool_share, (x, size, stride, pad, count_pad, y))


@njit(cache=True, nogil=True)
def _avg_pool_grad_share(worker, workers, dy, size, stride, pad, count_pad, dx):
    planes, H, W = dx.shape
    _, P, Q = dy.shape
    first, last = share(planes, worker, workers)
    for plane in range(first, last):
        dx[plane] = 0
        for p in range(P):
            h0, h1 = _window(p, size[0], stride[0], pad[0], H)
            rows = _counted(p, size[0], stride[0], pad[0], H, count_pad)
            for q in range(Q):
                w0, w1 = _window(q, size[1], stride[1], pad[1], W)
                columns = _counted(q, size[1], stride[1], pad[1], W, count_pad)
                part = dy[plane, p, q] / dx.dtype.type(rows * columns)
                for h in range(h0, h1):
                    for w in range(w0, w1):
                        dx[plane, h, w] += part


@njit(cache=True, nogil=True)
def _avg_pool_grad(team, dy, size, stride, pad, count_pad, dx):
    spread(team, _avg_pool_grad_share, (dy, size, stride, pad, count_pad, dx))


@njit(cache=True, nogil=True)
def _counted(i, size, stride, pad, extent, count_pad):
    """Return how much of window `i` a mean divides by: never what lies beyond the padding."""
    if count_pad:
        start = i * stride - pad
        return min(start + size, extent + pad) - start
    first, last = _window(i, size, stride, pad, extent)
    return last - first


def _pooled(extent: int, size: int, stride: int, pad: int, ceil_mode: bool) -> int:
    """Return the number of windows along one axis, as PyTorch counts them."""
    room = extent + 2 * pad - size
    if room < 0:
        raise ValueError(
            f"x: got {extent} pixels along an axis, expected at least the kernel_size {size} less "
            f"the padding of {2 * pad}"
        )
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    # A window that begins in the padding on the far side holds nothing.
    return windows - 1 if ceil_mode and (windows - 1) * stride >= extent + pad else windows


class _Pool(Layer):
    """What both kinds of pooling share: the arguments of PyTorch's layers and the shapes.

    Parameters
    ----------
    kernel_size, stride, padding : int or (rows, columns)
        In pixels; the stride is the kernel size unless given; the padding is at most half of it.
    ceil_mode : bool
        Whether a last window that is not full counts.
    """

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.size = pair(kernel_size, "kernel_size", 1)
        self.stride = self.size if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.ceil_mode = bool(ceil_mode)
        if any(2 * pad > size for pad, size in zip(self.padding, self.size, strict=True)):
            raise ValueError(
                f"padding: got {self.padding}, expected at most half of kernel_size {self.size}"
            )

    def _shapes(self, x: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of `x` and of the result, images and channels in one extent."""
        if x.ndim != 4:
            raise ValueError(f"x: got shape {x.shape}, expected (N, C, H, W)")
        pooled = tuple(
            _pooled(*axis, self.ceil_mode)
            for axis in zip(x.shape[2:], self.size, self.stride, self.padding, strict=True)
        )
        if x.shape[2] * x.shape[3] > PLANE_LIMIT:
            raise ValueError(
                f"x: got planes of {x.shape[2:]}, expected at most {PLANE_LIMIT} pixels"
            )
        planes = x.shape[0] * x.shape[1]
        self._x_shape, self._y_shape = x.shape, x.shape[:2] + pooled
        return (planes, *x.shape[2:]), (planes, *pooled)


class MaxPool2d(_Pool):
    """The largest pixel of each window; arguments as in PyTorch."""

    __doc__ += _Pool.__doc__.partition("\n")[2]  # type: ignore[union-attr]

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the maxima."""
        x_planes, y_planes = self._shapes(x)
        y = self._array("y", y_planes, x.dtype)
        self._winner = self._array("winner", y_planes, np.int32)
        with parallel_region(get_num_threads()) as team:
            _max_pool(
                team, x.reshape(x_planes), self.size, self.stride, self.padding, y, self._winner
            )
        return y.reshape(self._y_shape)

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Return `dy` at the places of the maxima."""
        dx = self._array("dx", self._x_shape, dy.dtype)
        planes = (self._x_shape[0] * self._x_shape[1],)
        with parallel_region(get_num_threads()) as team:
            _max_pool_grad(
                team,
                dy.reshape(planes + self._y_shape[2:]),
                self._winner,
                dx.reshape(planes + self._x_shape[2:]),
            )
        return dx


class AvgPool2d(_Pool):
    """The mean of each window; arguments as in PyTorch."""

    __doc__ += _Pool.__doc__.partition("\n")[2]  # type: ignore[union-attr]

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: np.ndarray, step: Step) -> np.ndarray:
        """Return the means."""
        x_planes, y_planes = self._shapes(x)
        y = self._array("y", y_planes, x.dtype)
        geometry = self.size, self.stride, self.padding, self.count_include_pad
        with parallel_region(get_num_threads()) as team:
            _avg_pool(team, x.reshape(x_planes), *geometry, y)
        return y.reshape(self._y_shape)

    def backward(self, dy: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Return `dy` spread evenly over the windows."""
        dx = self._array("dx", self._x_shape, dy.dtype)
        planes = (self._x_shape[0] * self._x_shape[1],)
        geometry = self.size, self.stride, self.padding, self.count_include_pad
        with parallel_region(get_num_threads()) as team:
            _avg_pool_grad(
                team,
                dy.reshape(planes + self._y_shape[2:]),
                *geometry,
                dx.reshape(planes + self._x_shape[2:]),
            )
        return dx
