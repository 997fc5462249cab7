"""The table of costs: what each piece of work takes, by which schedules are compared.

One unit: the time of a multiply-add of one vector, on one core.  It makes one table serve every
instruction set and clock; measured on AVX-512 with ``python -m bench.compare`` and single layers.
Arm's CPUs are taken for the same, but for what is said to be theirs: none was measured.
What BLAS does is counted in multiply-adds of one item instead, because its vectors are its own:
those numbers only compare block sizes of BLAS with each other.
"""

from __future__ import annotations

from lowerconv.codegen.isa import Isa

#                        what it pays for
# --- microkernels
LATENCY = 10.0  #        a step of the k loop at least: multiply-adds wait for their sums
LATENCY_SVE512 = 20.0  # likewise of A64FX: 9 cycles of two units, as its manual says; not measured
STEP = {1: 8.0, 2: 1.4}  # a step, beside its multiply-adds: with one vector the loads take longest
STEP_MORE = 1.8  #       likewise, with three vectors or more
CALL = 120.0  #          to call a microkernel and begin its sums
TRANSPOSED = 150.0  #    to transpose and store a square of VL x VL sums
STORED = 4.0  #          to store a vector of sums as it is
UNALIGNED = 0.2  #       to load a vector that straddles two cache lines
LOAD = 1.0  #            a load of a step, beyond one for two multiply-adds, pixels in vectors
LOAD_PACKED = 0.5  #     likewise, filters in vectors
WIDE = 1.5  #            likewise a vector of pixels beyond three: tiles stay in L1 less often
CROWDED = 0.1  #         to broadcast from a row that shares sets of L1 with all others
FAR_ROW, FAR_LINE = 20.0, 10.0  # to store a row, and a line, of a result larger than the caches
# --- tiles of AMX
TILE = 44.0  #           to multiply two tiles: 16 cycles, and waiting for operands from L2
TILE_LOAD = 28.0  #      to load one, where a step does little else
TILE_FAR = 8.0  #        likewise, from L2
TILE_STREAM = 200.0  #   to load one of filters from beyond L2
TILE_SUM = 10.0  #        to store a row of sums, load it and store what becomes of it
TILE_ROW = 6.0  #        to begin a row
GATHERED_ROW = 7.0  #    to copy what a vector of pixels reads in a channel, by a tap
GATHERED_TAP = 40.0  #   to begin that, for all channels
TILE_WEIGHTS = 48.0  #   to multiply two tiles of a weight gradient, which come from L2
PIXELS_JOINED = 40.0  #  to join 16 pixels of two images
PIXELS_TURNED = 60.0  #  likewise, and transpose them
# --- ternary filters, whose pixels are added
TERNARY_ADD = 2.2  #     to load a vector of pixels, from anywhere in a line, and add it
TERNARY_WEIGHT = 5.0  #  to find a weight that is not zero
TERNARY_SUM = 6.0  #     to add a vector to sums of 32 bits
TERNARY_WIDEN = 4.0  #   to widen a vector of words of pixels
PRODUCT_WIDENED = 1.5  # factor of products of bytes without an instruction for them, for each part
PRODUCT_WIDENED_512 = 2.0  # likewise with 512 bits, for which there are two ports and not three
# --- filters
PACKED = 1.0  #          to pack an item
STREAMED = 0.25  #       to read a byte of packed filters from beyond L2
# --- the source
TOUCH = 0.1  #           to read a vector of it once more
PADDED_ROW = 10.0  #    to begin a padded row
PADDED_VECTOR = 4.0  #  to copy a vector of it
# --- blocks of k
ADDED_TILE = 100.0  #    to begin a tile that adds to what is stored
ADDED_FILTER = 4.0  #    and to read and add each filter's pixels
# --- weight gradients
TAPS_CALL = 150.0  #     to call a microkernel of taps
TAPS_VECTOR = 3.0  #     to write a vector of its sums
TAPS_PIXELS_MAX = 200  # pixels that a call covers, at most
DY_TRANSPOSED = 1.0  #   to transpose a vector of dy
TASK_ROW = 60.0  #       to begin a row of pixels of a task
# --- Winograd
WINOGRAD_SOURCE = 185.0  # to transform a vector of channels of a tile
WINOGRAD_TARGET = 160.0  # to transform a vector of filters of a tile back
WINOGRAD_MOVED = 100.0  #  to turn VL pixels of VL planes into vectors, or back
WINOGRAD_FILTERS = 350.0  # to transform a vector of filters of a channel
WINOGRAD_FAR = 0.25  #     to read a byte from beyond L2, where that takes longer than its use
WINOGRAD_ROUNDING = 1.3  # factor: its rounding errors are larger, so it has to be clearly faster
# --- threads
LAUNCH = 10e3  #         to hand a job to threads: a microsecond or two
ELSEWHERE = 1.25  #      factor of a pass whose images lie on another NUMA node
# --- BLAS, in multiply-adds of one item
BLAS_LOWER = 16.0  #     to lower an item into L2 (about a quarter of a nanosecond)
BLAS_PIECE = 250.0  #    to begin a row piece, of at most Q items (about four nanoseconds)
BLAS_PACK = 12.0  #      for BLAS to pack an item of an operand
BLAS_STORE = 16.0  #     to write an item of the product once more
BLAS_CALL = 30e3  #      to call BLAS and go round the loop (about half a microsecond)


def step_time(MR: int, NV: int, isa: Isa) -> float:
    """Return the time of one step of a register tile of MR rows of NV vectors.

    Measured: steps take the time of their multiply-adds, at least their latency, and a little more
    that does not depend on the rows.
    """
    latency = LATENCY_SVE512 if isa.name.startswith("sve512") else LATENCY
    return max(MR * NV + STEP.get(NV, STEP_MORE), latency)


def padded_row(pitch: int, VL: int) -> float:
    """Return the time to pad a row of `pitch` items."""
    return PADDED_ROW + PADDED_VECTOR * pitch / VL


def added_tile(NR: int) -> float:
    """Return the time to add a tile of NR filters to what is stored."""
    return ADDED_TILE + ADDED_FILTER * NR
