"""The schedule of depthwise convolution and its weight gradient: bands, tasks, workers.

A plane of the result is computed from one plane of the source; nothing is packed, and no matrix
product is left.  Frozen and pure, as `conv.schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from lowerconv.codegen.depthwise_small import PRODUCTS_MAX
from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.packing import slack
from lowerconv.conv import costs
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.phases import Convolution
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.tiling_search import SPLIT_MAX
from lowerconv.conv.window import Window, balanced, window

GROUPS_MIN = 8  # of a weight gradient, which is shared out by groups
FEW = {"forward": 4, "input_grad": 4, "weight_grad": 16}  # products of a pixel
TOGETHER, SLOTS_BYTES = 16, 32 * 1024  # groups padded at a time, in L1
PITCHES = 16  # vectors of a row, up to which there is a kernel for each number
ROWS = 16  # of sums, of all phases, in registers
BAND_BYTES = 128 * 1024  # of a padded band of one plane


@dataclass(frozen=True)
class PlaneSchedule(BaseSchedule):
    """All decisions for a convolution plane by plane, or its weight gradient.

    Attributes
    ----------
    gradient : bool
        Whether it is the weight gradient.
    window : Window
        Where the pixels of a band read the source.
    in_place : bool
        Whether planes are read as they lie, with masks where there are no pixels.
    small : bool
        Whether rows fit a vector, and a plane is so small that all its products are written out.
    padded : bool
        Whether bands are padded copies.
    band : int
        Rows of pixels of a band.
    workers : int
    slot : int
        Bytes of a padded band of a plane.
    together : int
        Groups whose bands are padded before they are computed.
    """

    gradient: bool
    window: Window
    in_place: bool
    small: bool
    padded: bool
    band: int
    workers: int
    slot: int
    together: int

    @property
    def pieces(self) -> int:
        """Bands of a plane."""
        return ceil(max(phase.P for phase in self.conv.phases) / self.band)

    @property
    def tasks(self) -> int:
        """What workers share out: groups of a weight gradient, else bands of all planes."""
        conv = self.conv
        return conv.groups if self.gradient else conv.images * conv.groups * self.pieces

    @property
    def rows_at_once(self) -> int:
        """Rows of pixels whose sums are kept in registers, at most."""
        if not self.in_place:
            return 7 if self.isa.registers >= 32 else 3
        conv, taps = self.conv, max(1, self.conv.taps)
        if self.gradient:  # beside the sums of the taps
            most = self.isa.registers - min(taps, self.taps_at_once) - 3
        else:
            most = ROWS // len(conv.phases)
        strided = 4 if conv.stride_h > 1 else 7
        return max(1, min(strided, most, PRODUCTS_MAX // taps))

    @property
    def taps_at_once(self) -> int:
        """Taps whose gradients are kept in registers, beside the operands."""
        return self.isa.registers - 6


def by_planes(problem: ConvProblem, op: Op) -> bool:
    """Return whether groups have so few channels and filters that panels would be empty."""
    channels, filters = problem.C // problem.groups, problem.K // problem.groups
    if problem.geometry.stride_w > SPLIT_MAX:
        return False
    # A single result: a filter is used once for every pixel, and only pixels can be shared.
    results = {"forward": filters, "input_grad": channels, "weight_grad": 0}[op]
    single = results == 1 and problem.R > 1
    many = op != "weight_grad" or problem.groups >= GROUPS_MIN
    return (channels * filters <= FEW[op] and many) or single


def _is_small(conv: Convolution, VL: int) -> bool:
    """Return whether rows fit a vector, and a plane has few enough products to be unrolled."""
    width = max(conv.W, *(phase.Q for phase in conv.phases))
    products = sum(phase.P * len(phase.taps) for phase in conv.phases)
    return width <= VL and products <= PRODUCTS_MAX


def _coarse(view: Window, VL: int) -> int:
    """Return a pitch that has few values, as kernels are made for each: zeros fill up a row.

    Segments have whole vectors; beyond 16 of them, 8 numbers for each power of two.
    """
    vectors = ceil(view.pitch / (view.split * VL))
    step = max(1, 2 ** (vectors.bit_length() - 4)) if vectors > PITCHES else 1
    return ceil(vectors / step) * step * VL * view.split


def make_plane_schedule(
    conv: Convolution, isa: Isa, nodes: tuple[int, ...], gradient: bool
) -> PlaneSchedule:
    """Decide how to run a convolution plane by plane, or its weight gradient."""
    threads, dtype, item = len(nodes), conv.dtype, conv.dtype.itemsize
    VL = isa.lanes(dtype)
    view = window(conv, VL)
    P = max(phase.P for phase in conv.phases)
    band = P
    # Decided without regard to the threads, because the order of the sums is another.
    small = _is_small(conv, VL) and not (isa.masks and len(conv.phases) > 1)
    in_place = isa.masks and not small
    padded = view.padded and not small and not in_place
    if padded:
        view = replace(view, pitch=_coarse(view, VL))
        while band > 1 and view.plane(band) * item > BAND_BYTES:
            band = -(-band // 2)
        band = balanced(P, band)
    if not gradient and not small:  # bands for all threads
        band = min(band, max(1, ceil(P / ceil(threads / (conv.images * conv.groups)))))
    tasks = conv.groups if gradient else conv.images * conv.groups * ceil(P / band)
    pixels = sum(phase.P * phase.Q * (10 + len(phase.taps)) for phase in conv.phases)
    work = conv.images * conv.groups * conv.C * conv.K * pixels / VL
    workers = max(1, min(threads, tasks)) if work > costs.LAUNCH else 1
    # A slot has room for a plane, and for what its last vector spills.
    slot = ceil((view.plane(band) + slack(isa, dtype)) * item / LINE) * LINE if padded else 0
    group = max(1, conv.C * slot)
    together = max(1, min(TOGETHER, tasks // workers, SLOTS_BYTES // group))
    return PlaneSchedule(
        conv=conv,
        isa=isa,
        nodes=nodes,
        gradient=gradient,
        window=view,
        in_place=in_place,
        small=small,
        padded=padded,
        band=band,
        workers=workers,
        slot=slot,
        together=together,
    )
