"""Typed records: what compiled loops read, described once as named tuples.

A record is a row of 64-bit integers (extents, distances, addresses).  Its fields are those of some
named tuples, which group what belongs together and say what each field means::

    class Source(NamedTuple):
        images: int
        H: int  # rows of a plane

    JOB = record_dtype(Operands, Source)    # what loops are compiled for
    job = np.zeros(1, JOB)
    fill(job, Source(images=8, H=28))       # a missing or misspelt field is a TypeError
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np


class Operands(NamedTuple):
    """What a call passes: the first fields of every record, written by `launch.bind_operands`.

    The distance from one image of an operand to the next may be more than an image has: it can be
    some channels of a larger array.
    """

    source: int = 0  #   address of the images that are read
    filters: int = 0  #  address of the other operand
    bias: int = 0  #     address of an item for each filter, or 0
    target: int = 0  #   address of the result
    scratch: int = 0  #  address of the workspace
    ld_source: int = 0  #   items from one image to the next
    ld_filters: int = 0  #  likewise, where the other operand is images too
    ld_target: int = 0


def record_dtype(*parts: Any) -> np.dtype:
    """Return the dtype of a record with the fields of some named tuples, in their order.

    Raises
    ------
    TypeError
        Two of them have a field of the same name.
    """
    names = [name for part in parts for name in part._fields]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TypeError(f"parts: got {', '.join(sorted(twice))} twice, expected names of their own")
    return np.dtype([(name, np.int64) for name in names])


def fill(records: np.ndarray, *parts: Any) -> None:
    """Write named tuples into the fields of a record, or the same into each of several.

    Parameters
    ----------
    records : ndarray
        Of a dtype that `record_dtype` has made of the classes of `parts`, among others.
    *parts : NamedTuple instances
    """
    words = records.view(np.int64).reshape(len(records), -1)
    for part in parts:
        first = _place(records.dtype, type(part))
        words[:, first : first + len(part)] = part


@lru_cache
def _place(dtype: np.dtype, part: Any) -> int:
    """Return the first word of a named tuple in a record; its fields follow each other."""
    assert dtype.names is not None
    return dtype.names.index(part._fields[0])
