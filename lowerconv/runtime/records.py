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

from collections.abc import Callable
from ctypes import addressof, c_char
from functools import lru_cache
from struct import Struct
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
    buffer = records.view(np.int64).data.cast("B")  # NumPy takes five times as long
    for part in parts:
        kind: Any = type(part)
        pack, offset = _place(records.dtype, kind)
        for begin in range(offset, records.nbytes, records.itemsize):
            pack(buffer, begin, *part)


@lru_cache
def _place(dtype: np.dtype, part: Any) -> tuple[Callable[..., None], int]:
    """Return what writes a named tuple, and at which byte of a record: fields follow each other."""
    assert dtype.names is not None
    return Struct(f"{len(part._fields)}q").pack_into, 8 * dtype.names.index(part._fields[0])


def address_of(array: np.ndarray) -> int:
    """Return the address of an array, writable and contiguous, in a third of NumPy's own time."""
    return addressof(c_char.from_buffer(array.data)) if array.size else array.ctypes.data
