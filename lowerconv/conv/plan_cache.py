"""The plans of the functions and layers: made once for their arguments, the latest of them kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lowerconv.checks import integer, pair
from lowerconv.conv.plan import ConvPlan
from lowerconv.runtime.affinity import generation
from lowerconv.runtime.threads import get_num_threads

PLANS = 512  # plans are small: the workspace is not theirs


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
    arguments: tuple[Any, ...],
    threads: int,
    binding: int,
    names: tuple[str, str],
    options: tuple[Any, ...],
) -> ConvPlan:
    return ConvPlan(*arguments, names=names, **dict(options))


def cached_plan(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    names: tuple[str, str],
    **options: Any,
) -> ConvPlan:
    """Return the plan for these arguments, from a bounded cache where it was made before."""
    for name in ("algorithm", "activation"):
        if not isinstance(options.get(name), (str, type(None))):
            raise TypeError(f"{name}: got {options[name]!r}, expected a string")
    arguments = (
        x_shape,
        w_shape,
        _key(stride, "stride"),
        _key(padding, "padding"),
        _key(dilation, "dilation"),
        _key(groups, "groups"),
    )
    return _cached_plan(arguments, get_num_threads(), generation(), names, tuple(options.items()))


plan_cache_info = _cached_plan.cache_info
