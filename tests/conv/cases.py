"""The convolutions that every pass and every algorithm is tried on, named by what is special.

``EDGES`` are the corners of the geometry. ``BLOCKS`` put pixel and channel counts just below, at
and above the powers of two that tiles, panels and cache blocks are made of.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

import lowerconv as lc

from . import reference
from .reference import Array, Geometry, Shape

# Parametrised over what there is, so that an algorithm added to the library is tested at once.
# Those that do not take every problem are tested on what they take in files of their own.
CHOOSY = {"winograd"}
ALGORITHMS = (*(name for name in lc.algorithms() if name not in CHOOSY), "auto")
DTYPES = ("float32", "float64")
PASSES = ("forward", "input_grad", "weight_grad")

# Largest error allowed, relative to the largest entry of the right result.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


by_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES)
by_pass = pytest.mark.parametrize("op", PASSES)


@dataclass(frozen=True)
class Case:
    """One convolution: its name in the test ids, its shapes and its geometry as a user gives it."""

    name: str
    x: Shape
    w: tuple[int, int, int, int]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def arguments(self) -> tuple[Any, Any, Any, int]:
        """Stride, padding, dilation and groups, in the order in which all functions take them."""
        return self.stride, self.padding, self.dilation, self.groups

    @property
    def geometry(self) -> Geometry:
        return reference.geometry(self.w, *self.arguments)

    @property
    def y(self) -> Shape:
        return reference.output_shape(self.x, self.w, self.geometry)


class Data(NamedTuple):
    """The arrays of one problem: the operands of all three passes."""

    x: Array
    w: Array
    bias: Array
    dy: Array


class Call(NamedTuple):
    """One pass of one case: its operands, in the order the function takes them, and its result."""

    operands: tuple[Array, Array]
    expected: Array


@cache
def data_of(case: Case, dtype: str, seed: int = 0) -> Data:
    """Normally distributed arrays, a function of the case's name, the dtype and the seed only."""
    rng = np.random.default_rng([zlib.crc32(f"{case.name} {dtype}".encode()), seed])
    shapes = (case.x, case.w, case.w[:1], case.y)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    for a in arrays:
        a.setflags(write=False)  # shared between tests
    return Data(*arrays)


@cache
def call_of(case: Case, op: str, dtype: str, seed: int = 0) -> Call:
    """The operands and the right result of one pass."""
    x, w, _, dy = data_of(case, dtype, seed)
    return call_on(op, case, x, w, dy)


def call_on(op: str, case: Case, x: Array, w: Array, dy: Array) -> Call:
    """One pass on given arrays, with the reference's result."""
    return Call(operands_of(op, x, w, dy), expected_of(op, case, x, w, dy))


def operands_of(op: str, x: Array, w: Array, dy: Array) -> tuple[Array, Array]:
    """The two of the three arrays that a pass takes."""
    return {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]


def expected_of(op: str, case: Case, x: Array, w: Array, dy: Array) -> Array:
    """The reference's result of one pass, in float64."""
    if op == "forward":
        return reference.forward(x, w, None, case.geometry)
    if op == "input_grad":
        return reference.input_grad(dy, w, case.x, case.geometry)
    return reference.weight_grad(dy, x, case.w, case.geometry)


def run(op: str, case: Case, operands: tuple[Array, ...], **options: Any) -> Array:
    """Call the library's function for one pass."""
    first, second, *rest = operands
    if op == "forward":
        bias = rest[0] if rest else None
        return lc.conv2d(first, second, bias, *case.arguments, **options)
    if op == "input_grad":
        return lc.conv2d_input_grad(first, second, case.x, *case.arguments, **options)
    return lc.conv2d_weight_grad(first, second, case.w, *case.arguments, **options)


def make_plan(op: str, case: Case, **options: Any) -> lc.ConvPlan:
    """Call the library's planner for one pass."""
    return lc.plan_conv2d(case.x, case.w, *case.arguments, op=op, **options)


def ones(shape: Shape, dtype: Any = np.float32) -> Array:
    """An array of ones."""
    return np.ones(shape, dtype)


def assert_close(actual: Array, expected: Array) -> None:
    """Within the tolerance of ``actual``'s dtype, relative to the largest expected entry."""
    assert actual.shape == expected.shape
    if expected.size == 0:
        return
    scale = np.abs(expected).max()
    error = np.abs(actual - expected)
    # "not within" rather than "beyond": a NaN must fail.
    wrong = ~(error <= TOLERANCE[actual.dtype.name] * scale)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} entries wrong, largest error {error.max():.3g} where "
            f"entries reach {scale:.3g}; first at {first}: {actual[first]} not {expected[first]}"
        )


def each(cases: list[Case]) -> Iterator[Case]:
    """Yield cases, their names printed: the last one that a failed test has printed is at fault.

    For cases of some milliseconds, of which a test of its own would cost as many.
    """
    for case in cases:
        print(case.name)
        yield case


def by_case(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrise a test over cases."""
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def named(*names: str) -> list[Case]:
    """Cases of the lists below, by their names."""
    by_name = {case.name: case for case in EDGES + BLOCKS}
    return [by_name[name] for name in names]


EDGES = [
    # Extents of one, and kernels as large as the image
    Case("single-number", (1, 1, 1, 1), (1, 1, 1, 1)),
    Case("kernel-1x1", (2, 5, 6, 7), (4, 5, 1, 1)),
    Case("kernel-1x7", (2, 3, 5, 9), (4, 3, 1, 7), padding=(0, 3)),
    Case("kernel-7x1", (2, 3, 9, 5), (4, 3, 7, 1), padding=(3, 0)),
    Case("kernel-2x4-even", (2, 3, 7, 9), (4, 3, 2, 4)),
    Case("kernel-is-image", (2, 3, 5, 4), (6, 3, 5, 4)),
    Case("kernel-is-padded-image", (2, 3, 3, 2), (6, 3, 5, 4), padding=1),
    Case("kernel-11x11-stride-4", (1, 3, 31, 31), (5, 3, 11, 11), stride=4, padding=2),
    Case("image-1x7", (2, 3, 1, 7), (4, 3, 1, 3)),
    Case("image-7x1", (2, 3, 7, 1), (4, 3, 3, 1)),
    Case("image-1x1-padded", (2, 3, 1, 1), (4, 3, 3, 3), padding=1),
    Case("output-1x1-of-one-channel", (3, 2, 4, 3), (1, 2, 4, 3)),
    Case("single-channel", (2, 1, 8, 7), (5, 1, 3, 3), padding=1),
    Case("single-output-channel", (2, 5, 8, 7), (1, 5, 3, 3), padding=1),
    Case("single-channel-in-and-out", (2, 1, 8, 7), (1, 1, 3, 3), padding=1),
    Case("all-odd", (3, 5, 13, 11), (7, 5, 5, 3), padding=(2, 1)),
    Case("wide-row", (1, 2, 3, 301), (3, 2, 3, 3), padding=(0, 1)),
    Case("tall-column", (1, 2, 301, 3), (3, 2, 3, 3), padding=(1, 0)),
    # Batches
    Case("batch-0", (0, 3, 6, 5), (4, 3, 3, 3), padding=1),
    Case("batch-0-kernel-1x1", (0, 3, 6, 5), (4, 3, 1, 1)),
    Case("batch-1", (1, 3, 6, 5), (4, 3, 3, 3), padding=1),
    Case("batch-3", (3, 3, 6, 5), (4, 3, 3, 3), padding=1),
    # Strides
    Case("stride-2", (2, 3, 9, 11), (4, 3, 3, 3), stride=2),
    Case("stride-2-even-image", (2, 3, 8, 10), (4, 3, 3, 3), stride=2, padding=1),
    Case("stride-2x3", (2, 3, 9, 13), (4, 3, 3, 3), stride=(2, 3), padding=1),
    Case("stride-3x1", (2, 3, 13, 9), (4, 3, 3, 3), stride=(3, 1), padding=1),
    Case("stride-1x3", (2, 3, 9, 13), (4, 3, 3, 3), stride=(1, 3), padding=1),
    Case("stride-2-kernel-1x1", (2, 5, 7, 8), (4, 5, 1, 1), stride=2),
    Case("stride-beyond-kernel", (2, 3, 11, 13), (4, 3, 2, 2), stride=4),
    Case("stride-beyond-image", (2, 3, 4, 5), (4, 3, 2, 2), stride=7),
    Case("stride-huge", (2, 3, 4, 5), (4, 3, 2, 2), stride=2**40),
    Case("stride-leaves-rows-unread", (2, 3, 13, 11), (4, 3, 3, 3), stride=4),
    Case("stride-leaves-columns-unread", (2, 3, 11, 14), (4, 3, 3, 3), stride=4),
    Case("stride-leaves-padding-unread", (2, 3, 6, 6), (4, 3, 3, 3), stride=3, padding=1),
    # Padding
    Case("padding-2x1", (2, 3, 6, 5), (4, 3, 3, 3), padding=(2, 1)),
    Case("padding-four-sides", (2, 3, 6, 5), (4, 3, 3, 3), padding=((2, 0), (1, 3))),
    Case("padding-top-only", (2, 3, 6, 5), (4, 3, 3, 3), padding=((2, 0), (0, 0))),
    Case("padding-right-only", (2, 3, 6, 5), (4, 3, 3, 3), padding=((0, 0), (0, 2))),
    Case("padding-four-sides-stride-2", (2, 3, 7, 8), (4, 3, 3, 4), 2, ((1, 2), (3, 0))),
    Case("padding-beyond-kernel", (2, 3, 5, 4), (4, 3, 2, 2), padding=4),
    Case("padding-beyond-kernel-stride-3", (2, 3, 5, 4), (4, 3, 2, 3), stride=3, padding=5),
    Case("padding-around-1x1-kernel", (2, 3, 5, 4), (4, 3, 1, 1), padding=2),
    Case("padding-beyond-image", (2, 3, 2, 1), (4, 3, 3, 3), padding=7, stride=2),
    Case("padding-valid", (2, 3, 6, 7), (4, 3, 3, 2), padding="valid"),
    Case("padding-valid-stride-2", (2, 3, 6, 7), (4, 3, 3, 2), stride=2, padding="valid"),
    Case("padding-same", (2, 3, 6, 7), (4, 3, 3, 5), padding="same"),
    Case("padding-same-even-kernel", (2, 3, 6, 7), (4, 3, 4, 2), padding="same"),
    Case("padding-same-dilated", (2, 3, 6, 7), (4, 3, 2, 4), padding="same", dilation=(3, 1)),
    # Dilation
    Case("dilation-2", (2, 3, 9, 8), (4, 3, 3, 3), dilation=2),
    Case("dilation-3x1", (2, 3, 11, 8), (4, 3, 3, 3), padding=1, dilation=(3, 1)),
    Case("dilation-1x4", (2, 3, 6, 15), (4, 3, 2, 3), padding=(0, 4), dilation=(1, 4)),
    Case("dilation-and-stride", (2, 3, 13, 14), (4, 3, 3, 3), 2, 2, 3),
    Case("dilation-equals-stride", (2, 3, 13, 14), (4, 3, 3, 3), 2, 1, 2),
    Case("dilation-beyond-image", (2, 3, 4, 3), (4, 3, 2, 2), padding=5, dilation=8),
    Case("dilation-huge-kernel-1x1", (2, 3, 4, 5), (4, 3, 1, 1), dilation=2**40),
    # Groups
    Case("groups-2", (2, 6, 7, 6), (4, 3, 3, 3), padding=1, groups=2),
    Case("groups-3-kernel-1x1", (2, 6, 7, 6), (9, 2, 1, 1), groups=3),
    Case("groups-3-stride-2", (2, 6, 9, 8), (3, 2, 3, 3), stride=2, padding=1, groups=3),
    Case("groups-2-everything", (3, 4, 12, 15), (6, 2, 3, 2), (2, 3), ((1, 2), (0, 3)), (2, 3), 2),
    Case("depthwise", (2, 5, 8, 7), (5, 1, 3, 3), padding=1, groups=5),
    Case("depthwise-kernel-1x1", (2, 5, 8, 7), (5, 1, 1, 1), groups=5),
    Case("depthwise-multiplier-3", (2, 4, 8, 7), (12, 1, 3, 3), padding=1, groups=4),
    Case("depthwise-stride-2", (2, 5, 9, 8), (5, 1, 3, 3), stride=2, padding=1, groups=5),
    Case("depthwise-dilated", (1, 5, 9, 8), (5, 1, 3, 3), padding=2, dilation=2, groups=5),
    Case("groups-to-one-output-each", (2, 12, 5, 6), (3, 4, 3, 3), padding=1, groups=3),
]

AROUND_BLOCKS = (15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257)

BLOCKS = [
    *(Case(f"pixels-{q}", (1, 3, 1, q), (5, 3, 3, 3), padding=1) for q in AROUND_BLOCKS),
    *(Case(f"pixels-{q}-kernel-1x1", (1, 9, 1, q), (5, 9, 1, 1)) for q in (31, 32, 33, 256, 257)),
    *(Case(f"width-{q}-stride-2", (1, 2, 4, 2 * q), (3, 2, 3, 3), 2, 1) for q in (15, 16, 17, 33)),
    *(Case(f"inputs-{c}", (2, c, 4, 5), (3, c, 3, 3), padding=1) for c in AROUND_BLOCKS),
    *(Case(f"outputs-{k}", (2, 3, 4, 5), (k, 3, 3, 3), padding=1) for k in AROUND_BLOCKS),
    # Several tiles to an image, the last of them partial
    Case("tiles-67x83", (1, 2, 67, 83), (3, 2, 3, 3), padding=1),
    Case("tiles-64x64", (1, 3, 64, 64), (8, 3, 3, 3), padding=1),
    Case("tiles-65x63-batch-2", (2, 3, 65, 63), (3, 3, 5, 5)),
    Case("tiles-96x128-stride-2", (1, 3, 96, 128), (4, 3, 3, 3), stride=2, padding=1),
    Case("tiles-9x1025", (1, 2, 9, 1025), (3, 2, 3, 3), padding=1),
    Case("tiles-65x65-kernel-1x1", (2, 9, 65, 65), (5, 9, 1, 1)),
    Case("tiles-80x80-dilated", (1, 2, 80, 80), (3, 2, 3, 3), padding=2, dilation=2),
    # Sums long enough to be cut into blocks
    Case("sums-of-2304", (1, 256, 5, 6), (5, 256, 3, 3), padding=1),
    Case("sums-of-3000", (2, 120, 7, 6), (9, 120, 5, 5), padding=2),
    Case("sums-of-4096-kernel-1x1", (1, 4096, 3, 2), (3, 4096, 1, 1)),
    Case("sums-of-2313-stride-2", (1, 257, 7, 8), (4, 257, 3, 3), stride=2, padding=1),
    # Everything partial at once
    Case("partial-everywhere", (3, 65, 17, 19), (33, 65, 3, 3), padding=1),
    Case("partial-everywhere-groups-3", (2, 99, 9, 10), (51, 33, 3, 3), padding=1, groups=3),
    Case("small-maps-batch-33", (33, 4, 7, 7), (6, 4, 3, 3), padding=1),
    Case("small-maps-batch-17-stride-2", (17, 8, 7, 7), (9, 8, 3, 3), stride=2, padding=1),
    Case("depthwise-65", (2, 65, 17, 18), (65, 1, 3, 3), padding=1, groups=65),
]
