"""`plan_conv2d`: a plan from PyTorch's arguments."""

from __future__ import annotations

from typing import Any, cast

from lowerconv.checks import Pair
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan, check_options, parse_activation
from lowerconv.conv.problem import Op, batched, conv_problem


def plan_conv2d(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, int, int, int],
    stride: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    *,
    op: str = "forward",
    dtype: Any = "float32",
    algorithm: str = "auto",
    bias: bool = False,
    activation: str | None = None,
    accumulate: bool = False,
    constant_weights: bool = False,
    tune: bool = False,
) -> ConvPlan:
    """Decide how to run a convolution pass, to run it many times.

    Parameters
    ----------
    x_shape : tuple of int
        (N, C, H, W) or (C, H, W), in pixels.
    w_shape : tuple of int
        (K, C/groups, R, S).
    stride, padding, dilation, groups : optional
        As for :func:`lowerconv.conv2d`.
    op : {"forward", "input_grad", "weight_grad"}
        The pass: the plan is called as ``plan(x, w[, bias])``, ``plan(dy, w)`` or ``plan(dy, x)``.
    dtype : dtype-like, float32, float64, float16 or bfloat16
        Of all arrays.
    algorithm : str
        "auto" or one of :func:`lowerconv.algorithms`.
    bias : bool
        Whether the forward pass adds a bias, the third array of the call.
    activation : {None, "relu"}
        What the forward pass applies last.
    accumulate : bool
        Whether calls add to `out`, which they then must be given: for the gradients of branches,
        and for residuals. An activation comes after the addition.
    constant_weights : bool
        A promise that the filters do not change between calls with the same array: what is made of
        them is then kept, as large as they are, and made again when another array is passed. A call
        looks at some of their numbers, and raises ValueError where these have changed: so it finds
        most broken promises, such as updates of all filters, but not the change of a single number.
    tune : bool
        Whether "auto" measures the candidates where no measurement is remembered for this CPU. It
        takes about half a second, and what wins is remembered for all later plans.

    Returns
    -------
    ConvPlan

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit together; the message names the one.
    MemoryError
        The result or the workspace could not exist on this machine.
    """
    options = Options(
        algorithm=algorithm,
        bias=bool(bias),
        activation=parse_activation(activation),
        add=bool(accumulate),
        constant=constant_weights,
    )
    check_options(op, options)
    shape, single = batched(x_shape)
    problem = conv_problem(shape, w_shape, stride, padding, dilation, groups, dtype)
    return ConvPlan(problem, cast(Op, op), options._replace(single=single), tune)
