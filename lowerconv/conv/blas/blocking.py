"""Block sizes: the number, and the cache it fills.

The pipeline multiplies blocks of MC filters, NC pixels and KC taps.  Per core it keeps two panels
(one being lowered, one being multiplied) and one product, each a quarter of the L2 cache; the last
quarter is left to the rows of the image and of the filters that are read meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from lowerconv.conv import costs
from lowerconv.conv.block_budget import quarter_of_l2
from lowerconv.conv.problem import ConvProblem
from lowerconv.ops.blas import has_small_kernels

#                       what it fills, and why not more or less
NC_MAX = 512  #         pixels beyond which a wider product no longer helps BLAS
KC_MAX = 512  #         taps beyond which BLAS cuts the sum by itself
PARTIAL_MAX = 4 * 2**20  # bytes of partial weight gradients, all together
SPLITS_MAX = 32  #      partial weight gradients: enough tasks for many cores, few to add up
CORES = (1, 2, 4)  # numbers of cores that blocks have to suit

ROWS, COLUMNS = 8, 16  # that BLAS's kernels compute at a time
SMALL = 10**6  #        multiplications up to which BLAS may do without packing


class Blocking(NamedTuple):
    """MC filters x NC pixels x KC taps per product; `tasks` pieces of work for the cores.

    Nothing here depends on the number of threads, and so neither does a bit of the result.
    """

    MC: int
    NC: int
    KC: int
    tasks: int
    splits: int = 1


def _cuts(extent: int, most: int) -> list[int]:
    """Return sizes of equal blocks of `extent`, none above `most`, from large to small."""
    fewest = -(-extent // max(1, most))
    counts = [fewest + more for more in range(8)] + [fewest * f for f in (4, 8, 16, 32, 64, 128)]
    return sorted({-(-extent // min(count, extent)) for count in counts}, reverse=True)


def _lower_cost(problem: ConvProblem) -> float:
    """Return the time of lowering one element."""
    return costs.BLAS_LOWER + costs.BLAS_PIECE / problem.Q


def _core_time(tasks: int, per_task: float) -> float:
    """Return what a pass costs all cores, idle ones included, on machines of several sizes.

    The blocks do not depend on the number of threads, because BLAS rounds an element in the last
    bit by its place in a block: so they have to suit few cores and many.
    """
    return sum(-(-tasks // cores) * cores * per_task for cores in CORES)


def _whole_groups(extent: int, group: int) -> int:
    """Return the rows or columns in whole groups: BLAS's kernels compute one group at a time."""
    return -(-extent // group) * group


def forward_blocking(problem: ConvProblem) -> Blocking:
    """Blocks of ``y = w . col(x)``: tasks are MC filters x NC pixels, summed over panels of KC."""
    items = quarter_of_l2() // problem.dtype.itemsize
    m, n, k = problem.gemm_shape("forward")
    KC = _cuts(k, min(KC_MAX, items // 16))[0]
    panels = -(-k // KC)
    lower = _lower_cost(problem)

    def time(MC: int, NC: int) -> tuple[float, Blocking]:
        tasks = problem.groups * -(-m // MC) * -(-n // NC)
        per_task = (
            MC * _whole_groups(NC, COLUMNS) * k
            + (lower + costs.BLAS_PACK) * NC * k
            + costs.BLAS_PACK * MC * k
            + costs.BLAS_STORE * MC * NC * panels
            + costs.BLAS_CALL * panels
        )
        return _core_time(tasks, per_task), Blocking(MC, NC, KC, tasks)

    # Whole groups of columns, because BLAS takes longer for a rest.
    most = min(NC_MAX, items // KC)
    widths = {min(n, max(NC, min(_whole_groups(NC, COLUMNS), most))) for NC in _cuts(n, most)}
    blockings = [time(MC, NC) for NC in sorted(widths) for MC in _cuts(m, items // NC)]
    return min(blockings, key=lambda timed: timed[0])[1]


def pixel_tiles(problem: ConvProblem, most: int) -> int:
    """Return the pixels of a tile: a part of one image, or several whole images."""
    pixels = problem.P * problem.Q
    if pixels > most:
        return _cuts(pixels, most)[0]
    return pixels * max(1, min(problem.N, most // pixels))


def weight_grad_blocking(problem: ConvProblem) -> Blocking:
    """Blocks of ``dw = dy . col(x)^T``: tasks are MC filters x KC taps, summed over tiles of NC.

    Where the filters are small there are few such tasks: then the sum over pixels is cut into
    `splits` parts with results of their own, which are added in a fixed order at the end.
    """
    items = quarter_of_l2() // problem.dtype.itemsize
    m, k, n = problem.gemm_shape("weight_grad")
    dw_bytes = problem.K * k * problem.dtype.itemsize
    lower = _lower_cost(problem)

    def time(NC: int, MC: int, KC: int) -> tuple[float, Blocking]:
        tiles = -(-n // NC)
        splits = max(1, min(PARTIAL_MAX // dw_bytes, SPLITS_MAX, tiles // 2))
        tasks = splits * problem.groups * -(-m // MC) * -(-k // KC)
        per_tile = (
            (MC + lower + costs.BLAS_PACK) * KC * NC
            + costs.BLAS_PACK * MC * NC
            + costs.BLAS_STORE * MC * KC
            + costs.BLAS_CALL
        )
        per_task = per_tile * -(-tiles // splits)
        return _core_time(tasks, per_task), Blocking(MC, NC, KC, tasks, splits)

    blockings = [
        time(NC, MC, KC)
        for NC in {pixel_tiles(problem, most) for most in (NC_MAX, NC_MAX // 2, NC_MAX // 4)}
        for KC in _cuts(k, items // NC)
        for MC in _cuts(m, items // NC)
    ]
    return min(blockings, key=lambda timed: timed[0])[1]


def input_grad_blocking(problem: ConvProblem) -> Blocking:
    """Blocks of ``dcol = w^T . dy``: tasks are whole channels (KC taps) of MC images.

    A task owns its part of dx, so that overlapping taps can be added without locks.  Tiles of NC
    pixels are multiplied one after the other; a tile of several images takes its rows of dy
    through a gathered copy.
    """
    items = quarter_of_l2() // problem.dtype.itemsize
    taps = problem.R * problem.S
    channels = problem.C // problem.groups
    filters = problem.K // problem.groups
    NC = pixel_tiles(problem, max(1, min(NC_MAX, items // taps)))
    images_per_tile = max(1, NC // (problem.P * problem.Q))
    image_tiles = -(-problem.N // images_per_tile)

    def time(tiles: int, KC: int) -> tuple[float, Blocking]:
        MC = tiles * images_per_tile
        tasks = problem.groups * -(-channels * taps // KC) * -(-problem.N // MC)
        columns = MC * problem.P * problem.Q
        calls = -(-columns // NC)
        small = has_small_kernels() and KC * NC * filters <= SMALL
        pack = 0.0 if small else costs.BLAS_PACK
        per_task = (
            filters * _whole_groups(KC, ROWS) * columns
            + _lower_cost(problem) * KC * columns
            + pack * filters * (columns + KC * calls)
            + costs.BLAS_CALL * calls
        )
        return _core_time(tasks, per_task), Blocking(MC, NC, KC, tasks)

    blockings = [
        time(tiles, block * taps)
        for tiles in _cuts(image_tiles, 64)
        for block in _cuts(channels, items // (taps * NC))
    ]
    return min(blockings, key=lambda timed: timed[0])[1]
