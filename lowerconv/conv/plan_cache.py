"""The plans of the functions and layers: made once for their arguments, the latest of them kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lowerconv.checks import integer, pair
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan, parse_activation
from lowerconv.conv.problem import Op, batched, conv_problem
from lowerconv.runtime.affinity import generation
from lowerconv.runtime.threads import get_num_threads

PLANS = 512  # plans are small: the workspace is not theirs

Arguments = tuple[Any, Any, Any, Any]  # stride, padding, dilation and groups, as users give them

#   the arguments of a public function that tell the shapes of x and w: error messages name them
GIVEN: dict[Op, tuple[str, str]] = {
    "forward": ("x", "w"),
    "input_grad": ("x_shape", "w"),
    "weight_grad": ("x", "w_shape"),
}


def _key(value: Any, argument: str) -> Any:
    """Return `value` fit for a cache key: equal keys mean equal arguments.

    True, 1.0 and 1 are equal to Python and would share a plan, but only the last is an integer
    here, so anything that is not plainly an int or a string is checked before it is looked up.
    """
    if type(value) is int or type(value) is str:
        return value
    if isinstance(value, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in value):
        return tuple(_key(v, argument) for v in value)
    if isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim):
        return pair(value, argument, -(2**63))  # its range is checked with the problem
    return integer(value, argument, -(2**63))


@lru_cache(maxsize=PLANS)
def _cached_plan(
    op: Op,
    dtype: np.dtype,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    arguments: Arguments,
    options: Options,
    binding: int,
) -> ConvPlan:
    """Return a new plan; `binding` is in the key because plans are made for where threads run."""
    # The key is all of these, not a tuple of them: to make and hash one takes as long as all else.
    problem = conv_problem(x_shape, w_shape, *arguments, dtype, names=GIVEN[op])
    return ConvPlan(problem, op, options)


def cached_plan(
    op: Op,
    dtype: np.dtype,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    arguments: Arguments,
    algorithm: str,
    bias: bool = False,
    activation: str | None = None,
) -> ConvPlan:
    """Return the plan for these arguments, from a bounded cache where it was made before.

    `arguments` are stride, padding, dilation and groups.
    """
    for name, value in (("algorithm", algorithm), ("activation", activation)):
        if not isinstance(value, (str, type(None))):
            raise TypeError(f"{name}: got {value!r}, expected a string")
    shape, single = batched(x_shape)
    stride, padding, dilation, groups = arguments
    arguments = (
        _key(stride, "stride"),
        _key(padding, "padding"),
        _key(dilation, "dilation"),
        _key(groups, "groups"),
    )
    options = Options(
        algorithm=algorithm,
        threads=get_num_threads(),
        bias=bias,
        activation=parse_activation(activation),
        single=single,
    )
    return _cached_plan(op, dtype, shape, w_shape, arguments, options, generation())


plan_cache_info = _cached_plan.cache_info
