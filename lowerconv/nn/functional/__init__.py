"""Operations between the values of a `forward`, or between arrays: what importers put together.

Each takes values and arrays alike.  Of arrays alone it returns the result at once, by NumPy: so the
shapes and constants of an imported network are worked out while it is recorded.  Of values it
records a layer, or, where neighbours have a form of their own, that: ``x * sigmoid(x)`` is SiLU.
"""

from lowerconv.nn.functional.items import affine, arithmetic, pointwise, prelu, scaled
from lowerconv.nn.functional.operands import Operand, apply, computed, constant, evaluated, layer_of
from lowerconv.nn.functional.reductions import Softmax, matmul, normalize, reduce, softmax
from lowerconv.nn.functional.shapes import (
    Transpose,
    cast,
    concat,
    expand,
    getitem,
    pad,
    reshape,
    take,
    transpose,
    unpadded,
    where,
)
from lowerconv.nn.functional.windows import convolution, pool, transposed_convolution

__all__ = [
    "Operand",
    "Softmax",
    "Transpose",
    "affine",
    "apply",
    "arithmetic",
    "cast",
    "computed",
    "concat",
    "constant",
    "convolution",
    "evaluated",
    "expand",
    "getitem",
    "layer_of",
    "matmul",
    "normalize",
    "pad",
    "pointwise",
    "pool",
    "prelu",
    "reduce",
    "reshape",
    "scaled",
    "softmax",
    "take",
    "transpose",
    "transposed_convolution",
    "unpadded",
    "where",
]
