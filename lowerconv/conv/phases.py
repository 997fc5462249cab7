"""Every pass that multiplies filters with pixels as one thing: a convolution with phases."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lowerconv.codegen.dots import Words
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.word_format import WordFormat

CACHE_SIZE = 256  # of each decision the latest: layers are alike; images of new sizes need new ones
PHASES_MAX = 64  # of an input gradient, each with microkernels of its own
COUNT_MAX = 2**31 - 1  # pixels, that BLAS and tables of offsets can count


@dataclass(frozen=True)
class Phase:
    """A convolution with a step of its own into the result.

    Attributes
    ----------
    P, Q : int
        Rows and columns of result pixels.
    taps : tuple of (tap, row, column)
        Number of the tap among R x S, and where it reads the source, relative to pixel (0, 0).
    out_offset, out_row, out_column : int
        Items, in a plane of the result, of pixel (0, 0) and from one pixel to the next.
    """

    P: int
    Q: int
    taps: tuple[tuple[int, int, int], ...]
    out_offset: int
    out_row: int
    out_column: int

    @cached_property
    def tap_rows(self) -> tuple[int, ...]:
        """Rows of the source that pixels of row 0 read, by tap."""
        return tuple(row for _, row, _ in self.taps)


@dataclass(frozen=True)
class Convolution:
    """A convolution of a source with panels of filters, whichever pass it comes from."""

    images: int
    groups: int
    C: int  # channels summed over, of a group
    K: int  # channels of the result, of a group
    H: int
    W: int
    stride_h: int
    stride_w: int
    taps: int  # of the filters
    transposed: bool  # filters come as [channel][result][tap]
    out_H: int  # of the result
    out_W: int
    phases: tuple[Phase, ...]
    dtype: np.dtype  # of the sums, and of items, which are words where there is a `word_format`
    word_format: WordFormat | None = None

    def __hash__(self) -> int:  # of some fields, which tell most apart: it is asked for often
        return hash((self.images, self.C, self.K, self.H, self.W, self.taps, self.out_plane))

    @property
    def reads_padding(self) -> bool:
        """Whether the padding adds to sums, as it is not zeros."""
        return self.word_format is not None and self.word_format.padding != 0

    def words(self, vectors: str) -> Words | None:
        """Return the words of the microkernel, where ``"pixels"`` or ``"filters"`` fill vectors."""
        return self.word_format.words(vectors) if self.word_format else None

    @property
    def out_plane(self) -> int:
        """Items of a plane of the result."""
        return self.out_H * self.out_W

    @property
    def filters_per_item(self) -> int:
        """How many filters an item of the result holds."""
        return self.word_format.filters_per_item if self.word_format else 1

    @cached_property
    def reach(self) -> tuple[int, int, int, int]:
        """Extents of the taps: least and greatest row, least and greatest column."""
        rows = [row for phase in self.phases for _, row, _ in phase.taps] or [0]
        columns = [column for phase in self.phases for _, _, column in phase.taps] or [0]
        return min(rows), max(rows), min(columns), max(columns)


def is_product(problem: ConvProblem) -> bool:
    """Return whether the filters are 1x1 at stride 1 without padding: one matrix product."""
    plain = (problem.R, problem.S) == (1, 1) and problem.stride == (1, 1)
    return plain and not any(map(any, problem.padding))


def _extents(problem: ConvProblem) -> tuple[int, int, int, int]:
    """Return H, W, P, Q; images and results of a single product are one long row each."""
    H, W, P, Q = problem.H, problem.W, problem.P, problem.Q
    return (1, H * W, 1, P * Q) if is_product(problem) else (H, W, P, Q)


def forward_convolution(problem: ConvProblem) -> Convolution:
    """Return the forward pass as it is."""
    g = problem.geometry
    H, W, P, Q = _extents(problem)
    taps = tuple(
        (r * g.S + s, r * g.dilation_h - g.pad_top, s * g.dilation_w - g.pad_left)
        for r in range(g.R)
        for s in range(g.S)
    )
    return Convolution(
        images=problem.N,
        groups=problem.groups,
        C=problem.C // problem.groups,
        K=problem.K // problem.groups,
        H=H,
        W=W,
        stride_h=g.stride_h,
        stride_w=g.stride_w,
        taps=g.R * g.S,
        transposed=False,
        out_H=P,
        out_W=Q,
        phases=(Phase(P, Q, taps, 0, Q, 1),),
        dtype=problem.dtype,
    )


def input_grad_convolution(problem: ConvProblem) -> Convolution:
    """Return the input gradient as convolutions of dy, one for each phase of the stride.

    Pixel ``h`` of dx takes tap r from row ``(h + pad - r * dilation) / stride`` of dy where that
    is whole: so rows of equal remainder ``h + pad`` by the stride have their own set of taps, and
    neighbours among them read neighbouring rows of dy.
    """
    g = problem.geometry
    H, W, P, Q = _extents(problem)

    def steps(extent: int, taps: int, stride: int, pad: int, dilation: int, first: int):
        """Return what the pixels ``first, first + stride, ...`` read: their number and taps."""
        return -(-(extent - first) // stride), [
            (tap, (first + pad - tap * dilation) // stride)
            for tap in range(taps)
            if (first + pad - tap * dilation) % stride == 0
        ]

    phases = []
    for first_row in range(min(g.stride_h, H)):
        rows, row_taps = steps(H, g.R, g.stride_h, g.pad_top, g.dilation_h, first_row)
        for first_column in range(min(g.stride_w, W)):
            columns, column_taps = steps(W, g.S, g.stride_w, g.pad_left, g.dilation_w, first_column)
            taps = tuple(
                (r * g.S + s, row, column) for r, row in row_taps for s, column in column_taps
            )
            phases.append(
                Phase(rows, columns, taps, first_row * W + first_column, g.stride_h * W, g.stride_w)
            )
    return Convolution(
        images=problem.N,
        groups=problem.groups,
        C=problem.K // problem.groups,
        K=problem.C // problem.groups,
        H=P,
        W=Q,
        stride_h=1,
        stride_w=1,
        taps=g.R * g.S,
        transposed=True,
        out_H=H,
        out_W=W,
        phases=tuple(phases),
        dtype=problem.dtype,
    )


@lru_cache(maxsize=CACHE_SIZE)
def convolution(problem: ConvProblem, op: Op) -> Convolution:
    """Return a pass as a convolution; for a weight gradient, the forward pass it belongs to."""
    return (input_grad_convolution if op == "input_grad" else forward_convolution)(problem)


def countable(problem: ConvProblem) -> bool:
    """Return whether the pixels of an image are few enough for BLAS and tables of offsets."""
    return max(problem.H * problem.W, problem.P * problem.Q) <= COUNT_MAX


def has_many_phases(problem: ConvProblem, op: Op) -> bool:
    """Return whether an input gradient is too many convolutions of too few pixels each."""
    return op == "input_grad" and problem.stride[0] * problem.stride[1] > PHASES_MAX
