"""Products of some rows with a constant matrix, which is kept packed.

It lies in panels of NR columns, ``[panel][k][NR]``, as the filters of a convolution
do, and the microkernel multiplies some rows of the other operand, where they are, with a panel::

    for each panel of NR columns        in L1 or L2, while the rows pass
        for each block of MR rows       MR x NR sums in registers

What BLAS does at each call, packing the matrix, is done once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.compiled import internal
from lowerconv.codegen.isa import Isa
from lowerconv.codegen.masked import bare
from lowerconv.codegen.microkernel import Microkernel, rows_max
from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import ACTIVATE, ADD, Tile
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import call, parallel

VECTORS = (1, 2, 3)  # of columns of a tile
LATENCY = 10  #        multiply-adds that a step takes at least: they wait for their sums
PREFETCH_STEPS = 32  #         steps that the matrix is prefetched ahead


def _balanced(extent: int, most: int) -> int:
    """Return the size of equal parts of `extent`, none above `most`, the last perhaps smaller."""
    parts = -(-extent // most)
    return -(-extent // parts)


@lru_cache
def _tile(rows: int, columns: int, isa: Isa, dtype: np.dtype) -> tuple[int, int]:
    """Return MR and NR, those of the least time."""
    VL = isa.lanes(dtype)

    def time(MR: int, NV: int) -> float:
        step = max(MR * NV + MR / 2 + NV, LATENCY)  # loads are half as dear as multiply-adds
        return step * -(-rows // MR) * -(-columns // (NV * VL))

    tiles = [
        (_balanced(rows, rows_max(isa, NV)), NV)
        for NV in VECTORS
        if NV == 1 or columns > (NV - 1) * VL
    ]
    MR, NV = min(tiles, key=lambda tile: time(*tile))
    return MR, NV * VL


def pack(matrix: np.ndarray, NR: int) -> np.ndarray:
    """Return a matrix (columns, k), that is transposed, in panels ``[panel][k][NR]``.

    Parameters
    ----------
    matrix : ndarray, (columns, k)
    NR : int
        Columns of a panel; the last one ends with zeros.

    Returns
    -------
    ndarray, (panels, k, NR)
    """
    columns, k = matrix.shape
    panels = -(-columns // NR)
    packed = np.zeros((panels, k, NR), matrix.dtype)
    whole = columns // NR
    packed[:whole] = matrix[: whole * NR].reshape(whole, NR, k).transpose(0, 2, 1)
    if whole < panels:
        packed[whole, :, : columns - whole * NR] = matrix[whole * NR :].T
    return packed


@not_copied("make another for the same extents")
@dataclass(frozen=True)
class PackedProduct:
    """The kernels of ``y = f(x w^T + bias)``, or of ``y = f(y + x w^T + bias)``.

    Attributes
    ----------
    rows, columns, k : int
        Of the product.
    dtype : dtype
        float32 or float64.
    isa : Isa
    activation : Activation or None
        What is applied to results.
    MR, NR : int
        Rows and columns of a tile.
    kernels : ndarray, (2, 2)
        Their addresses: of whole blocks of rows and of the last, for whole panels and the last.
    """

    rows: int
    columns: int
    k: int
    dtype: np.dtype
    isa: Isa
    activation: Activation | None = None
    MR: int = field(init=False)
    NR: int = field(init=False)
    kernels: np.ndarray = field(init=False, compare=False)

    def __post_init__(self) -> None:
        MR, NR = _tile(self.rows, self.columns, self.isa, self.dtype)
        kernels = [
            [self._kernel(MR, NR, rows, columns).address() for columns in (NR, last_columns)]
            for last_columns in (self.columns % NR or NR,)
            for rows in (MR, self.rows % MR or MR)
        ]
        for name, value in (("MR", MR), ("NR", NR), ("kernels", np.array(kernels, np.int64))):
            object.__setattr__(self, name, value)

    def _kernel(self, MR: int, NR: int, rows: int, columns: int) -> Microkernel:
        VL = self.isa.lanes(self.dtype)
        begins = range(0, columns, VL)
        return Microkernel(
            self.isa,
            self.dtype,
            rows=tuple(i * self.k for i in range(rows)),
            columns=tuple(begins),
            broadcast_step=1,
            vector_step=NR,
            store="rows",
            lanes=tuple(min(VL, columns - begin) for begin in begins),
            prefetch_vectors=PREFETCH_STEPS * NR,
            activation=self.activation.kind if self.activation else RELU,
        )

    def arguments(self) -> tuple[object, ...]:
        """Return what :func:`packed_product` takes of it."""
        extents = self.rows, self.columns, self.k, self.MR, self.NR
        mode = ACTIVATE if self.activation else 0
        constants = (self.activation or RELU).constants(self.dtype)
        return extents, np.zeros(self.MR, self.dtype), self.kernels, mode, constants


@internal
def _begin(y, bias, add):
    """Write what the sums of a row are added to."""
    if add:
        for i in range(bias.size):
            y[i] += bias[i]
    else:
        for i in range(bias.size):
            y[i] = bias[i]


@parallel
def packed_product(worker, workers, x, w, bias, y, add, product):
    """Compute ``y = f(x w^T + bias)``, or ``y = f(y + x w^T + bias)``.

    Parameters
    ----------
    x, y : ndarray, (rows * k,), (rows * columns,)
    w : ndarray, (panels, k, NR)
        As `pack` returns it.
    bias : ndarray, (columns,)
        Empty: none.
    add : bool
        Whether results are added to what is in `y`.
    product : tuple
        As `PackedProduct.arguments` returns it.
    """
    extents, zeros, kernels, mode, constants = product
    x, w, y, bias = bare(x), bare(w), bare(y), bare(bias)
    zeros, kernels, constants = bare(zeros), bare(kernels), bare(constants)
    rows, columns, k, MR, NR = extents
    blocks, panels = (rows + MR - 1) // MR, (columns + NR - 1) // NR
    if add or bias.size:
        mode |= ADD
    first, last = share(panels * blocks, worker, workers)
    for task in range(first, last):
        row, column = task % blocks * MR, task // blocks * NR
        count, end = min(MR, rows - row), min(NR, columns - column)
        if bias.size:
            for i in range(row, row + count):
                at = i * columns + column
                _begin(y[at : at + end], bias[column : column + end], add)
        call(
            kernels[np.int64(row + MR > rows), np.int64(column + NR > columns)],
            Tile(
                k=k,
                vectors=w.ctypes.data + column * k * w.itemsize,
                broadcasts=x.ctypes.data + row * k * x.itemsize,
                table=np.int64(0),
                out=y.ctypes.data + (row * columns + column) * y.itemsize,
                ld_out=columns,
                bias=np.int64(zeros.ctypes.data),
                valid=count,
                mode=mode,
                geometry=np.int64(0),
                constants=np.int64(constants.ctypes.data),
            ),
        )
