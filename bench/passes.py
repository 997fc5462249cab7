"""The three passes of a layer: their operands, their plans, and the functions a user would call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import lowerconv as lc
from bench.cases import Layer

PASSES = ("forward", "input_grad", "weight_grad")


def plan_for(layer: Layer, batch: int, op: str, algorithm: str, **options: Any) -> lc.ConvPlan:
    """Return the plan of a pass of a layer; `options` are those of `plan_conv2d`."""
    return lc.plan_conv2d(
        layer.x_shape(batch),
        layer.w_shape,
        *layer.arguments,
        op=op,
        algorithm=algorithm,
        **options,
    )


def flops(layer: Layer, batch: int) -> int:
    """Return the floating-point operations of any pass of a layer (an FMA counts two)."""
    return plan_for(layer, batch, "forward", "auto").problem.flops


def operands(layer: Layer, batch: int, op: str) -> tuple[np.ndarray, np.ndarray]:
    """Return random operands of a pass, float32."""
    rng = np.random.default_rng(0)
    y_shape = plan_for(layer, batch, "forward", "auto").result_shape
    shapes = {
        "forward": (layer.x_shape(batch), layer.w_shape),
        "input_grad": (y_shape, layer.w_shape),
        "weight_grad": (y_shape, layer.x_shape(batch)),
    }[op]
    first, second = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return first, second


def planned(plan: lc.ConvPlan, first: np.ndarray, second: np.ndarray) -> Callable[[], np.ndarray]:
    """Return a call of a plan, the memory of its result given."""
    return partial(plan, first, second, out=np.empty(plan.result_shape, np.float32))


def function(
    layer: Layer, op: str, algorithm: str, first: np.ndarray, second: np.ndarray
) -> Callable[[], np.ndarray]:
    """Return a call of the public function of a pass, which makes its result itself."""
    if op == "forward":
        return partial(lc.conv2d, first, second, None, *layer.arguments, algorithm=algorithm)
    if op == "input_grad":
        x_shape = layer.x_shape(len(first))
        return partial(
            lc.conv2d_input_grad, first, second, x_shape, *layer.arguments, algorithm=algorithm
        )
    return partial(
        lc.conv2d_weight_grad, first, second, layer.w_shape, *layer.arguments, algorithm=algorithm
    )
