"""The convolution and its gradients as operators of PyTorch, differentiable any number of times.

Each is the gradient of the others: with ``y = conv(x, w)``, the input gradient is bilinear in `dy`
and `w`, the weight gradient in `dy` and `x`, and what comes of differentiating these is one of the
three again.  So autograd needs no fourth.  `Library.impl` costs half of what
`torch.library.custom_op` does for each call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerconv import functional

GEOMETRY = "int[2] stride, int[4] padding, int[2] dilation, int groups"

_library = torch.library.Library("lowerconv", "DEF")
for _schema in (
    f"conv2d(Tensor x, Tensor w, Tensor? bias, {GEOMETRY}) -> Tensor",
    f"conv2d_input_grad(Tensor dy, Tensor w, SymInt[] x_shape, {GEOMETRY}) -> Tensor",
    f"conv2d_weight_grad(Tensor dy, Tensor x, SymInt[] w_shape, {GEOMETRY}) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

_conv2d = torch.ops.lowerconv.conv2d.default
_input_grad = torch.ops.lowerconv.conv2d_input_grad.default
_weight_grad = torch.ops.lowerconv.conv2d_weight_grad.default


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    """Return the convolution of images, as `torch.nn.functional.conv2d` does.

    Parameters
    ----------
    x : Tensor, (N, C, H, W) or (C, H, W), float32 or float64, on the CPU
    w : Tensor, (K, C/groups, R, S)
    bias : Tensor, (K,), or None
    stride, dilation : (int, int)
    padding : (int, int, int, int)
        Above, below, left, right.
    groups : int

    Returns
    -------
    Tensor, (N, K, P, Q) or (K, P, Q)
        Contiguous.

    Raises
    ------
    TypeError, ValueError
        An argument that does not fit, by its name.
    """
    result: Tensor = _conv2d(x, w, bias, stride, padding, dilation, groups)
    return result


def _geometry(stride: Any, padding: Any, dilation: Any, groups: int) -> tuple[Any, ...]:
    """Return what `lowerconv.conv2d` takes."""
    top, bottom, left, right = padding
    return tuple(stride), ((top, bottom), (left, right)), tuple(dilation), groups


def _array(tensor: Tensor, name: str) -> np.ndarray:
    """Return the memory of a tensor, in whatever layout."""
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: got {tensor.dtype}, expected torch.float32 or torch.float64")
    return tensor.detach().resolve_neg().numpy()


# --- on the CPU ---


def _run(x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    shift = None if bias is None else _array(bias, "bias")
    y = functional.conv2d(_array(x, "x"), _array(w, "w"), shift, *_geometry(*geometry))
    return torch.from_numpy(y)


def _run_input_grad(dy: Tensor, w: Tensor, x_shape: Any, *geometry: Any) -> Tensor:
    arrays = _array(dy, "dy"), _array(w, "w")
    dx = functional.conv2d_input_grad(*arrays, tuple(x_shape), *_geometry(*geometry))
    return torch.from_numpy(dx)


def _run_weight_grad(dy: Tensor, x: Tensor, w_shape: Any, *geometry: Any) -> Tensor:
    arrays = _array(dy, "dy"), _array(x, "x")
    dw = functional.conv2d_weight_grad(*arrays, tuple(w_shape), *_geometry(*geometry))
    return torch.from_numpy(dw)


# --- shapes alone, for tracing: extents may be symbols ---


def _shape(x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    stride, ((top, bottom), (left, right)), dilation, _ = _geometry(*geometry)
    sizes = zip(x.shape[-2:], w.shape[-2:], stride, dilation, strict=True)
    ends = (top + bottom, left + right)
    pixels = [
        (n + more - d * (r - 1) - 1) // s + 1
        for (n, r, s, d), more in zip(sizes, ends, strict=True)
    ]
    return x.new_empty((*x.shape[:-3], w.shape[0], *pixels))


def _given_shape(dy: Tensor, other: Tensor, shape: Any, *geometry: Any) -> Tensor:
    return dy.new_empty(shape)


# --- gradients ---


class _Conv2d(torch.autograd.Function):
    """The convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        with torch._C._AutoDispatchBelowAutograd():
            y: Tensor = _conv2d(x, w, bias, *geometry)
        return y

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> Any:
        (dy,), (x, w), dx, dw, db = dys, ctx.saved_tensors, None, None, None
        if ctx.needs_input_grad[0]:
            dx = _input_grad(dy, w, x.shape, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            dw = _weight_grad(dy, x, w.shape, *ctx.geometry)
        if ctx.needs_input_grad[2]:
            db = dy.sum((-2, -1) if dy.dim() == 3 else (0, 2, 3))
        return dx, dw, db, None, None, None, None


class _InputGrad(torch.autograd.Function):
    """The gradient with respect to images."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, w: Tensor, x_shape: Any, *geometry: Any) -> Tensor:
        ctx.save_for_backward(dy, w)
        ctx.geometry = geometry
        with torch._C._AutoDispatchBelowAutograd():
            dx: Tensor = _input_grad(dy, w, x_shape, *geometry)
        return dx

    @staticmethod
    def backward(ctx: Any, *ddxs: Any) -> Any:
        (ddx,), (dy, w), ddy, dw = ddxs, ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            ddy = _conv2d(ddx, w, None, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            dw = _weight_grad(dy, ddx, w.shape, *ctx.geometry)
        return ddy, dw, None, None, None, None, None


class _WeightGrad(torch.autograd.Function):
    """The gradient with respect to filters."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor, w_shape: Any, *geometry: Any) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.geometry = geometry
        with torch._C._AutoDispatchBelowAutograd():
            dw: Tensor = _weight_grad(dy, x, w_shape, *geometry)
        return dw

    @staticmethod
    def backward(ctx: Any, *ddws: Any) -> Any:
        (ddw,), (dy, x), ddy, dx = ddws, ctx.saved_tensors, None, None
        if ctx.needs_input_grad[0]:
            ddy = _conv2d(x, ddw, None, *ctx.geometry)
        if ctx.needs_input_grad[1]:
            dx = _input_grad(dy, ddw, x.shape, *ctx.geometry)
        return ddy, dx, None, None, None, None, None


def _differentiable(operator: Any, function: Any) -> Any:
    """Return what autograd calls for an operator."""

    def call(*args: Any) -> Tensor:
        tensors = (a for a in args[:3] if isinstance(a, Tensor))
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            y: Tensor = function.apply(*args)
            return y
        with torch._C._AutoDispatchBelowAutograd():
            y = operator(*args)
        return y

    return call


for _name, _cpu, _fake, _operator, _function in (
    ("conv2d", _run, _shape, _conv2d, _Conv2d),
    ("conv2d_input_grad", _run_input_grad, _given_shape, _input_grad, _InputGrad),
    ("conv2d_weight_grad", _run_weight_grad, _given_shape, _weight_grad, _WeightGrad),
):
    _library.impl(_name, _cpu, "CPU")
    _library.impl(_name, _differentiable(_operator, _function), "Autograd")
    torch.library.register_fake(f"lowerconv::{_name}", _fake, lib=_library)
