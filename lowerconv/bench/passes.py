"""The passes of a layer: operands, plans, the functions a user would call, and what they cost."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from lowerconv.bench.cases import Layer
from lowerconv.bench.interleaved import Run
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.plan_conv2d import plan_conv2d
from lowerconv.conv.problem import ConvProblem, conv_problem
from lowerconv.functional import conv2d, conv2d_input_grad, conv2d_weight_grad

PASSES = ("forward", "input_grad", "weight_grad")
BACKWARD = "backward"  # both gradients, one after the other
TOLERANCE = 1e-4  # of the largest entry: sums of a million products in float32, in any order


def problem(layer: Layer, batch: int) -> ConvProblem:
    """Return the convolution of a layer."""
    return conv_problem(layer.x_shape(batch), layer.w_shape, *layer.arguments)


def flops(layer: Layer, batch: int, op: str = "forward") -> int:
    """Return the floating-point operations of a pass of a layer (an FMA counts two)."""
    return problem(layer, batch).flops * (2 if op == BACKWARD else 1)


def compulsory_bytes(layer: Layer, batch: int, op: str) -> int:
    """Return the bytes that a pass cannot do without: every operand read once, results written."""
    shapes = problem(layer, batch)
    x, w, y = (prod(shape) for shape in (shapes.x_shape, shapes.w_shape, shapes.y_shape))
    items = 2 * (x + w) + y if op == BACKWARD else x + w + y
    return items * shapes.dtype.itemsize


def plan_for(layer: Layer, batch: int, op: str, algorithm: str, **options: Any) -> ConvPlan:
    """Return the plan of a pass of a layer; `options` are those of `plan_conv2d`."""
    return plan_conv2d(
        layer.x_shape(batch),
        layer.w_shape,
        *layer.arguments,
        op=op,
        algorithm=algorithm,
        **options,
    )


def operands(layer: Layer, batch: int, op: str) -> tuple[np.ndarray, np.ndarray]:
    """Return random operands of a pass, float32."""
    rng = np.random.default_rng(0)
    y_shape = problem(layer, batch).y_shape
    shapes = {
        "forward": (layer.x_shape(batch), layer.w_shape),
        "input_grad": (y_shape, layer.w_shape),
        "weight_grad": (y_shape, layer.x_shape(batch)),
    }[op]
    first, second = (rng.standard_normal(shape, np.float32) for shape in shapes)
    return first, second


def planned(plan: ConvPlan, first: np.ndarray, second: np.ndarray) -> Run:
    """Return a call of a plan, the memory of its result given."""
    return partial(plan, first, second, out=np.empty(plan.result_shape, np.float32))


def arrays_of(layer: Layer, batch: int, op: str) -> tuple[np.ndarray, ...]:
    """Return what `planned_run` takes: the operands of a pass; dy, w and x for both gradients."""
    if op != BACKWARD:
        return operands(layer, batch, op)
    dy, w = operands(layer, batch, "input_grad")
    _, x = operands(layer, batch, "weight_grad")  # after the same dy
    return dy, w, x


def planned_run(
    layer: Layer, batch: int, op: str, algorithm: str, arrays: tuple[np.ndarray, ...]
) -> Run:
    """Return a call of a plan, or of the plans of both gradients, on arrays shared with others."""
    if op != BACKWARD:
        return planned(plan_for(layer, batch, op, algorithm), *arrays)
    dy, w, x = arrays
    return _Both(
        planned(plan_for(layer, batch, "input_grad", algorithm), dy, w),
        planned(plan_for(layer, batch, "weight_grad", algorithm), dy, x),
    )


class _Both:
    """Two calls, one after the other, as one."""

    def __init__(self, first: Run, second: Run) -> None:
        self.first, self.second = first, second

    def __call__(self) -> tuple[object, object]:
        return self.first(), self.second()


def function(layer: Layer, op: str, algorithm: str, first: np.ndarray, second: np.ndarray) -> Run:
    """Return a call of the public function of a pass, which makes its result itself."""
    if op == "forward":
        return partial(conv2d, first, second, None, *layer.arguments, algorithm=algorithm)
    if op == "input_grad":
        x_shape = layer.x_shape(len(first))
        return partial(
            conv2d_input_grad, first, second, x_shape, *layer.arguments, algorithm=algorithm
        )
    return partial(
        conv2d_weight_grad, first, second, layer.w_shape, *layer.arguments, algorithm=algorithm
    )


def check_agreement(runs: dict[str, Run], what: str) -> None:
    """Run every candidate once; raise where one does not compute what the first does."""
    (first, run), *others = runs.items()
    expected = [np.array(part) for part in _parts(run())]  # copies: the next call writes there
    for name, run in others:
        for part, right in zip(_parts(run()), expected, strict=True):
            result = np.asarray(part)
            error = np.abs(result - right).max() / np.abs(right).max()
            if result.shape != right.shape or not error < TOLERANCE:
                raise RuntimeError(f"{what}: {name} differs from {first} by {error:.1e}")


def _parts(result: object) -> tuple[object, ...]:
    return result if isinstance(result, tuple) else (result,)
