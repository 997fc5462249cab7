"""The records that the loops of convolutions read: all decisions of a schedule, as integers."""

from __future__ import annotations

from typing import NamedTuple

from lowerconv.runtime.records import Operands, record_dtype

# How filters reach the microkernel: as the caller has them, packed by the plan, or packed at every
# call from [filter][channel][tap] or from [channel][filter][tap].
FILTERS_IN_PLACE, PACKED, PACKED_FROM_FORWARD, PACKED_FROM_TRANSPOSED = range(4)


class Problem(NamedTuple):
    """The convolution: planes of H rows of W items; channels and filters are those of a group."""

    images: int
    H: int
    W: int
    groups: int
    C: int  # channels, summed over
    K: int  # filters, of the result
    taps: int
    itemsize: int


class Blocks(NamedTuple):
    """How m, n and k are cut, as in BLIS."""

    NR: int  #      filters of a panel
    NC: int  #      filters whose panels are packed at a time, a multiple of NR
    KC: int  #      channels summed at a time, all of their taps
    panels: int  #  of a group
    pieces: int  #  of an image
    VL: int  #      lanes of a vector
    filters_from: int  #       how filters reach the microkernel
    pixels_in_vectors: int  #  whether pixels fill the vectors, and filters are broadcast
    k_step: int  # words of k of a step; panels have zeros up to whole steps


class SourceLayout(NamedTuple):
    """How a piece of the source lies in memory: in place, or as a band of rows, padded."""

    padded: int  #        whether it is such a band, else in place
    band: int  #          rows of pixels of a band
    stride_h: int  #      rows of the source from one pixel to the next
    stride_w: int  #      items of a padded row from one pixel to the next
    first_row: int  #     row of the source that pixel row 0 begins to read
    padded_rows: int  #  rows of the source that a band reads
    left: int  #          zeros before a row
    pitch: int  #         items from one row to the next
    plane: int  #         items from one channel to the next
    pad_bits: int = 0  #  the bits of an item of the padding


class Result(NamedTuple):
    """Where sums go."""

    out_plane: int  #        items of a plane of the result
    out_item_bytes: int  #   of an item, which may be a word of several filters' pixels
    out_filter_bytes: int  # of a single filter's pixel in an item
    phases: int  #           how many `PhaseRecord`s there are
    add: int = 0  #          whether sums are added to what is there


class Epilogue(NamedTuple):
    """What is applied to results last."""

    kernels_activate: int = 0  # whether kernels apply their function before they store
    activate: int = 0  #   else the address of a function of signature `Activate`, or 0
    constants: int = 0  #  address of those of the function, as kernels or `Activate` take them


class Requantization(NamedTuple):
    """How sums become bytes, or floats (`codegen.microkernel_requantize`); 0: they are stored."""

    scales: int = 0  #     address: for each filter of all panels
    shifts: int = 0  #     address, likewise
    requantize_constants: int = 0  # address: of `microkernel_requantize.CONSTANTS`
    residual: int = 0  #   address: images that are added, laid out as the result
    ld_residual: int = 0  # items from one of them to the next


class CopyFunctions(NamedTuple):
    """Addresses of the emitted functions that rearrange; see `codegen.signatures`."""

    pad: int
    transpose: int
    transpose_taps: int
    prefetch: int


class Gathering(NamedTuple):
    """Panels of pixels, for tiles of AMX; see `codegen.gathering`.  All zeros for other kernels."""

    configure: int = 0  #      address of the function
    configuration: int = 0  #  address
    gather: int = 0  #         address of the function, or 0 where images are panels as they are
    gather_numbers: int = 0  # address of `signatures.GatherNumbers`
    gather_taps: int = 0  #    address
    gathered_at: int = 0  #    bytes, in a worker's scratch


class Workers(NamedTuple):
    """What each worker does, and where its parts of the scratch begin, in bytes."""

    workers: int
    parts: int  #   address: where each worker's parts begin, and all parts, four numbers each
    copies: int  #  address: each worker's copy of the packed filters; see `macrokernel`
    scratch_bytes: int
    padded_at: int
    sums_at: int


class PhaseRecord(NamedTuple):
    """A convolution with a step of its own into the result, and its microkernels."""

    P: int
    Q: int
    TH: int  #               rows of pixels of a tile
    TW: int  #               columns of pixels of a tile
    tiles_per_row: int
    tiles: int
    tiles_per_piece: int
    tables: int  #           address: for each row of tiles, the address of its table, and its taps
    out_offset: int  #       items, in a plane of the result, of pixel (0, 0)
    out_row: int
    out_column: int
    kernel: int  #           of whole tiles of whole panels
    kernel_tail: int  #      of the last tiles of a row or column
    kernel_last: int  #      of the last panel
    kernel_last_tail: int
    geometry: int  #         address of `signatures.TileGeometry`, of whole tiles
    geometry_tail: int  #    and of the last ones


# One record for each phase; what is not a phase's own stands in the first.
FORWARD_JOB = record_dtype(
    Operands,
    Problem,
    Blocks,
    SourceLayout,
    Result,
    Epilogue,
    Requantization,
    CopyFunctions,
    Gathering,
    Workers,
    PhaseRecord,
)
