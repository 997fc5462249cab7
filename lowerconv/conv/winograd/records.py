"""The records that the loops of Winograd's convolution and weight gradient read."""

from __future__ import annotations

from typing import NamedTuple

from lowerconv.conv.records import Epilogue
from lowerconv.runtime.records import Operands, record_dtype


class TileProblem(NamedTuple):
    """The convolution: planes of the source and the result; channels and filters of a group."""

    images: int
    H: int
    W: int
    P: int
    Q: int
    groups: int
    C: int
    K: int
    taps: int
    itemsize: int
    add: int  # whether results are added to what is there


class TileBlocks(NamedTuple):
    """How m, n and k are cut."""

    NR: int  #      filters of a panel
    KC: int  #      channels multiplied at a time
    MR: int  #      tiles of a microkernel
    VL: int
    panels: int  #  of a group
    filters_from: int  # how filters come; see `conv.records`


class TilePieces(NamedTuple):
    """Pieces: images together, bands of rows of tiles, segments of those rows."""

    together: int
    bands: int
    band: int  #          rows of tiles
    segments: int
    segment: int  #       tiles of a row
    tiles_down: int  #    of an image
    tiles_across: int


class Band(NamedTuple):
    """The pixels of the source that a piece reads, as vectors of VL channels."""

    first_row: int  #  that tile (0, 0) reads
    left: int  #       zeros before a row
    skip: int  #       pixels of a row that no tile reads
    pitch: int  #      pixels from one row to the next
    band_rows: int
    places: int  #     address: where each pixel of the image goes, in items
    extent: int  #     pixels of a tile, across


class Transformed(NamedTuple):
    """Items from one point to the next, and the tiles that V has room for."""

    step_V: int
    step_U: int
    step_M: int
    room: int


class TileKernels(NamedTuple):
    """Addresses of emitted functions; see `codegen.signatures`."""

    pad: int
    transpose: int
    transpose_taps: int
    planes_to_vectors: int
    vectors_to_planes: int
    transform_source: int
    transform_filters: int
    transform_target: int
    kernels: int  # address: microkernels, of whole panels and the last one, by their tiles
    table: int  #   address: offsets of the channels in V
    zeros: int  #   address


class TileWorkers(NamedTuple):
    """Where filters are kept, what each worker does, and where its parts of the scratch begin."""

    kept: int  #       address of the transformed filters that the plan keeps, or 0
    shared_at: int  #  bytes, in the scratch, of those that a call shares, or 0
    parts: int  #      address: where each worker's parts begin, and all parts, four numbers each
    workers: int
    scratch_bytes: int
    V_at: int
    M_at: int
    U_at: int
    taps_at: int
    band_at: int
    strip_at: int
    sums_at: int


TILE_JOB = record_dtype(
    Operands,
    TileProblem,
    TileBlocks,
    TilePieces,
    Epilogue,
    Band,
    Transformed,
    TileKernels,
    TileWorkers,
)


# --- the weight gradient: two records, of x and of dy, which differ in what is transformed


class SumProblem(NamedTuple):
    """The gradient of filters: C and K are those of a group."""

    images: int
    groups: int
    K: int
    VL: int
    itemsize: int
    add: int  # whether dw is added to what is there


class Side(NamedTuple):
    """What is transformed, x or dy, and where its transform lies in the scratch."""

    H: int
    W: int
    C: int  #          planes of a group
    blocks: int  #     of VL planes, of a group
    first_row: int
    left: int
    skip: int
    pitch: int
    band_rows: int
    places: int
    extent: int
    transform_source: int
    at: int  #         bytes, where V or Y begins
    step_V: int  #     items from one point to the next


class Units(NamedTuple):
    """Units of tiles that a core transforms at a time, and those of the present batch."""

    bands: int
    band: int
    segments: int
    segment: int
    tiles_down: int
    tiles_across: int
    unit: int  #   tiles of a full one
    room: int  #   tiles of a batch
    unit0: int = 0
    unit1: int = 0


class Sums(NamedTuple):
    """The products, and what becomes of their sums."""

    NR: int  #      filters of a panel
    MR: int  #      channels of a microkernel
    panels: int  #  of a group
    chunk: int  #   channels that are transformed back at a time
    kernel: int
    kernel_last: int
    planes_to_vectors: int
    vectors_to_planes: int
    transform_target: int
    zeros: int
    D_at: int  #    bytes, where the sums begin
    step_D: int  #  items from one point to the next
    workers: int
    scratch_bytes: int
    sums_at: int


SUM_JOB = record_dtype(Operands, SumProblem, Side, Units, Sums)
