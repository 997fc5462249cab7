"""Signatures of emitted functions: each serves the emitter, the callers and the tracer.

Every emitted function returns nothing and takes 64-bit integers: addresses, extents, and distances
in items of the dtype unless bytes are said; words of reduced precision (`dots`) are such items.  A
caller passes one of these tuples, so that a missing or misspelt argument is an error when the
caller is compiled, and not a wild address when it runs.
"""

from __future__ import annotations

from typing import NamedTuple

ADD, ACTIVATE = 1, 2  # bits of a mode: add to what is there; apply the function, such as ReLU


class Tile(NamedTuple):
    """The microkernel: an MR x NR tile of C, summed over k steps."""

    k: int  #           steps
    vectors: int  #     address of the operand whose neighbours fill vectors
    broadcasts: int  #  address of the operand whose items are broadcast
    table: int  #       address of int32 offsets, in items
    out: int  #         address of the tile in the result
    ld_out: int  #      from one row (store "rows") or lane (store "columns") to the next
    bias: int  #        address of NR lanes ("columns") or MR items ("rows") that sums start from
    valid: int  #       lanes ("columns") or rows ("rows") of the tile that are stored
    mode: int  #        bits `ADD` and `ACTIVATE`
    geometry: int  #    address of `TileGeometry`, of kernels that read some
    constants: int  #   address of those of the function; see `Epilogue`


class TileGeometry(NamedTuple):
    """What tiles of one plan have in common: 64-bit integers, in memory."""

    lanes: int  #      of the last vector of a row of pixels
    row: int  #        of the source, from one row of pixels to the next
    out_row: int  #    of the result
    line: int = 0  #    for tiles of AMX, as the next two: those of `amx.Panels`, in bytes
    column: int = 0
    block: int = 0


class RequantizedTile(NamedTuple):
    """The microkernel of words: its sums become bytes, or floats; see `microkernel_requantize`."""

    k: int
    vectors: int
    broadcasts: int
    table: int
    out: int
    ld_out: int  #     from one word of four filters to the next; of floats, from one filter
    bias: int
    valid: int  #      filters of the tile that are stored
    scales: int  #     address of a float32 for each filter
    shifts: int  #     likewise
    residual: int  #   address of the tile in the words that are added
    geometry: int  #   as of `Tile`
    constants: int  #  address of `microkernel_requantize.CONSTANTS`


class TernarySums(NamedTuple):
    """Sums of the pixels that some ternary weights of a filter select; see `ternary`."""

    source: int  #   address of pixels of 16 bits
    offsets: int  #  address of int32: bytes from there to the first pixel that each weight reads
    masks: int  #    address of pairs of masks of 64 weights: which are 1, which are -1
    pairs: int
    sums: int  #     address of int32 sums
    add: int  #      whether these are added to what is there
    start: int  #    else: what they start from


class WidenBytes(NamedTuple):
    """Bytes of words, less 128, become 16 bits in four rows; see `ternary`."""

    source: int  #  address of the first word
    pixels: int  #  at least 1
    target: int  #  address of the row of the lowest byte
    step: int  #    bytes from it to that of the next byte
    flip: int  #    what bytes are changed by to be unsigned


class Plane(NamedTuple):
    """A depthwise kernel: rows of one plane of the result, or the gradient of its taps."""

    source: int  # address of the first row that pixel row 0 reads
    filter: int  # address of the taps, or of a vector of sums for each tap
    bias: int  #   address of the item that sums start from
    out: int  #    address of the first row of the result; of dy, for a gradient
    first: int  #  number of that row of pixels
    rows: int  #   of pixels
    mode: int  #   as of `Tile`
    geometry: int  # address of `PlaneGeometry`
    constants: int  # as of `Tile`


class PlaneGeometry(NamedTuple):
    """What the planes of one plan have in common: 64-bit integers, in memory."""

    Q: int  #          pixels of a row
    out_row: int  #    of the result, from one row of pixels to the next
    W: int  #          of the source
    H: int
    out_W: int  #      of the result
    out_H: int


class Pad(NamedTuple):
    """Copy rows ``first .. first + rows`` of a plane, with a value around it."""

    source: int  #     address of a plane of H rows of W items
    ld_source: int  #  from one of its rows to the next
    H: int
    W: int
    first: int  #      row that is copied first; rows outside the plane are all padding
    rows: int
    left: int  #       items of padding before each row
    target: int  #     address
    pitch: int  #      from one row of the target to the next
    value: int  #      of the padding, as the bits of an item


class Transpose(NamedTuple):
    """``target[j * ld_target + i] = source[i * ld_source + j]``, j < columns, i < lanes <= VL."""

    source: int
    ld_source: int
    rows: int  #       that exist; those from there on are taken as zeros
    columns: int
    target: int
    ld_target: int
    lanes: int


class TransposeTaps(NamedTuple):
    """Filters ``[channel][lane][tap]`` become ``[channel][tap][lane]``."""

    source: int
    ld_source: int  #  from one channel to the next
    rows: int  #       lanes that exist; the others up to `lanes` become zeros
    channels: int
    target: int
    ld_target: int  #  from one channel to the next
    width: int  #      from one tap of the target to the next
    lanes: int


class JoinTaps(NamedTuple):
    """Filters ``[channel][tap]`` of float32 become words of two channels of bf16; see `joining`."""

    source: int
    channels: int
    taps: int
    target: int


class Gather(NamedTuple):
    """Panels ``[channel, tap][16 pixels]`` of some pixels of an image; see `gathering`."""

    source: int
    first: int  #   pixel, counted along the rows of the result
    pixels: int
    target: int
    numbers: int  # address of `GatherNumbers`
    taps: int  #    address of int32: row and column that pixel 0 reads, and ``row * W + column``


class GatherNumbers(NamedTuple):
    """What panels of one plan have in common: 64-bit integers, in memory."""

    H: int
    W: int
    Q: int  #        pixels of a row of the result
    stride_h: int
    top: int  #      the least row that pixel 0 reads
    bottom: int  #   the greatest
    left: int
    right: int
    channels: int
    taps: int
    panel: int  #    items from one panel to the next
    value: int  #    of what lies around the image, as the bits of an item


class Configure(NamedTuple):
    """Say what tiles of AMX are, in this thread."""

    numbers: int  # address of `amx.configuration`; 0: have none any more


class Prefetch(NamedTuple):
    """Ask for `lines` cache lines at each of `places` places `step` bytes apart."""

    address: int
    places: int
    step: int
    lines: int


class SumLanes(NamedTuple):
    """``target[i]`` is the sum of the lanes of vector i at `vectors`, for i < sums."""

    vectors: int
    sums: int
    target: int


class TransformSource(NamedTuple):
    """Winograd's BT d B of `tiles` tiles that follow each other in a row."""

    source: int
    pitch: int  #  from one row to the next
    tiles: int
    target: int  # of point i of tile t: target + i * step + t * VL
    step: int


class TransformFilters(NamedTuple):
    """Winograd's G g GT of `channels` channels, a vector of filters each."""

    source: int
    channels: int
    width: int  #  from one tap to the next; 9 * width from one channel to the next
    target: int  # of point i of channel c: target + i * step + c * width
    step: int


class TransformTarget(NamedTuple):
    """Winograd's AT m A of `tiles` tiles, the last one first."""

    source: int  #  of point i of tile t: source + i * step + t * width
    step: int
    width: int
    tiles: int
    target: int
    row: int  #     from one row of pixels to the next
    advance: int  # from one tile to the next


class PlanesToVectors(NamedTuple):
    """`pixels` pixels of `rows` planes become vectors of VL channels."""

    source: int  # of plane i: source + i * step
    step: int
    rows: int  #   that exist; those from there on are taken as zeros
    pixels: int
    places: int  # address of int32 offsets: pixel j becomes the vector at target + places[j]
    target: int


class VectorsToPlanes(NamedTuple):
    """`pixels` vectors of VL filters become pixels of `rows` planes, bias and ReLU applied."""

    source: int
    pixels: int
    rows: int
    target: int  # of plane i: target + i * step
    step: int
    bias: int  #   address of a vector
    mode: int  #   as of `Tile`
    constants: int  # as of `Tile`


class Activate(NamedTuple):
    """Apply a function to `items` items of each of `rows` rows, in place."""

    target: int
    rows: int
    items: int
    step: int  #       from one row to the next
    constants: int  #  address of numbers; see `ops.activate`


class PoolPlane(NamedTuple):
    """Pool one plane, which is H rows of W pixels, to P rows of Q."""

    source: int
    H: int
    W: int
    above: int  #   rows of padding before the first
    before: int  #  columns of padding before the first
    height: int  #  rows of a window
    down: int  #    rows from one window to the next
    out: int
    P: int
    Q: int


class Post(NamedTuple):
    """Count one more, and wake who waits for it."""

    state: int
    counter: int  # address


class AwaitCount(NamedTuple):
    """Wait until a counter has come so far."""

    state: int
    counter: int  # address
    until: int


class SetThreads(NamedTuple):
    """Have a library use so many threads; one of the library's own functions."""

    threads: int
