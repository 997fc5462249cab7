"""What a convolution is: its extents, checked once and then trusted by everything below."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from lowerconv.checks import Pair, integer, pair

Op = Literal["forward", "input_grad", "weight_grad"]
OPS: tuple[str, ...] = ("forward", "input_grad", "weight_grad")
FLOAT32 = np.dtype(np.float32)
DTYPES = (FLOAT32, np.dtype(np.float64))
BF16_BITS = np.dtype(np.uint16)  # of bf16, as networks store them; users have none
BF16 = "bfloat16"
HALVES = (BF16, "float16")  # the first is ml_dtypes', and none of NumPy's
EXPECTED = "float32, float64, bfloat16 (of ml_dtypes) or float16"

EXTENT_MAX = 2**62  # of a padded image: sums of two such numbers still fit 64 bits
Sides = tuple[Pair, Pair]  # ((top, bottom), (left, right))


class Geometry(NamedTuple):
    """Where the filter taps fall on the image: the part of a problem that compiled kernels need.

    Tap ``(r, s)`` of output pixel ``(p, q)`` reads image row ``p * stride_h - pad_top +
    r * dilation_h`` and image column ``q * stride_w - pad_left + s * dilation_w``.
    """

    R: int
    S: int
    P: int
    Q: int
    stride_h: int
    stride_w: int
    pad_top: int
    pad_left: int
    dilation_h: int
    dilation_w: int


@dataclass(frozen=True)
class ConvProblem:
    """One convolution, in the letters of the literature.

    ``x`` is (N, C, H, W), ``w`` is (K, C/groups, R, S) and ``y`` is (N, K, P, Q).  Build it with
    :func:`conv_problem`, which checks what it is given.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int
    dtype: np.dtype

    @property
    def is_half(self) -> bool:
        """Whether arrays have 16 bits; sums are float32."""
        return self.dtype.itemsize == 2

    @property
    def has_bits(self) -> bool:
        """Whether images are bits of bf16, and all else is float32: as networks have them."""
        return self.dtype == BF16_BITS

    @property
    def computed(self) -> ConvProblem:
        """The same problem in the type of its sums."""
        return replace(self, dtype=FLOAT32) if self.is_half else self

    @cached_property
    def P(self) -> int:
        """Rows of the output."""
        (top, bottom), _ = self.padding
        return (self.H + top + bottom - self.dilation[0] * (self.R - 1) - 1) // self.stride[0] + 1

    @cached_property
    def Q(self) -> int:
        """Columns of the output."""
        _, (left, right) = self.padding
        return (self.W + left + right - self.dilation[1] * (self.S - 1) - 1) // self.stride[1] + 1

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        """Shape of the image batch, (N, C, H, W)."""
        return self.N, self.C, self.H, self.W

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        """Shape of the filters, (K, C/groups, R, S)."""
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output batch, (N, K, P, Q)."""
        return self.N, self.K, self.P, self.Q

    @cached_property
    def geometry(self) -> Geometry:
        """The integers that compiled kernels take.

        A step beyond the padded image is never taken, so it may be shortened to fit 64 bits.
        """
        (top, bottom), (left, right) = self.padding
        rows, columns = self.H + top + bottom, self.W + left + right
        return Geometry(
            self.R,
            self.S,
            self.P,
            self.Q,
            min(self.stride[0], rows),
            min(self.stride[1], columns),
            top,
            left,
            min(self.dilation[0], rows),
            min(self.dilation[1], columns),
        )

    @property
    def flops(self) -> int:
        """Floating-point operations of any of the three passes (an FMA counts two)."""
        return 2 * self.N * self.K * self.P * self.Q * (self.C // self.groups) * self.R * self.S

    def gemm_shape(self, op: Op) -> tuple[int, int, int]:
        """Extents (m, n, k) of the matrix product that one group of the pass is lowered to.

        ======================  ======  ======  ======
        pass                    m       n       k
        ======================  ======  ======  ======
        y  = w . col(x)         K/g     NPQ     CRS/g
        dcol(x) = w^T . dy      CRS/g   NPQ     K/g
        dw = dy . col(x)^T      K/g     CRS/g   NPQ
        ======================  ======  ======  ======

        In the macro-kernels m, n and k are others.  Forward is computed transposed: pixels are m,
        filters n.  Input gradients are computed as a convolution of dy: pixels of dx are m, C/g is
        n, and k has K R S/g.  Weight gradients: taps are m, filters n, pixels k.
        """
        filters = self.K // self.groups
        taps = self.C // self.groups * self.R * self.S
        pixels = self.N * self.P * self.Q
        return {
            "forward": (filters, pixels, taps),
            "input_grad": (taps, pixels, filters),
            "weight_grad": (filters, taps, pixels),
        }[op]


def _shape(value: Any, argument: str, meaning: str) -> tuple[int, ...]:
    """Return a shape as a tuple of ints; its length must be that of `meaning`."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{argument}: got {value!r}, expected a shape {meaning}")
    if len(value) != meaning.count(",") + 1:
        raise ValueError(
            f"{argument}: got shape {tuple(value)} with {len(value)} dimensions, expected {meaning}"
        )
    return tuple(integer(extent, argument, 0) for extent in value)


def _sides(padding: Any, stride: Pair, dilation: Pair, R: int, S: int) -> Sides:
    """Return the padding of each side, ((top, bottom), (left, right))."""
    if isinstance(padding, str):
        if padding == "valid":
            return (0, 0), (0, 0)
        if padding != "same":
            raise ValueError(
                f"padding: got {padding!r}, expected 'same', 'valid', an int, a pair "
                "or ((top, bottom), (left, right))"
            )
        if stride != (1, 1):
            raise ValueError(f"padding: got 'same' with stride {stride}, expected stride 1")
        rows, columns = dilation[0] * (R - 1), dilation[1] * (S - 1)
        # An odd total goes to the bottom and to the right, as in PyTorch.
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != 2 or not all(isinstance(p, (tuple, list)) for p in padding):
            raise ValueError(f"padding: got {padding!r}, expected ((top, bottom), (left, right))")
        return pair(padding[0], "padding", 0), pair(padding[1], "padding", 0)
    rows, columns = pair(padding, "padding", 0)
    return (rows, rows), (columns, columns)


def batched(x_shape: Any) -> tuple[Any, bool]:
    """Return a shape of images with the batch extent, and whether that was missing."""
    single = isinstance(x_shape, (tuple, list)) and len(x_shape) == 3
    return (1, *x_shape) if single else x_shape, single


def checked_dtype(dtype: Any) -> np.dtype:
    """Return a dtype-like as one that convolutions have; raise TypeError for any other."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError("dtype: got 'bfloat16', which needs the package ml_dtypes") from None
        dtype = ml_dtypes.bfloat16
    try:
        known = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype: got {dtype!r}, expected {EXPECTED}") from None
    if not has_dtype(known):
        raise TypeError(f"dtype: got {known}, expected {EXPECTED}")
    return known


def has_dtype(dtype: np.dtype) -> bool:
    """Return whether convolutions have a dtype, in the byte order of the machine."""
    return dtype in DTYPES or (dtype.itemsize == 2 and dtype.name in HALVES and dtype.isnative)


def conv_problem(
    x_shape: Any,
    w_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
    dtype: Any = "float32",
    *,
    names: tuple[str, str] = ("x_shape", "w_shape"),
) -> ConvProblem:
    """Check the arguments of a convolution and return the problem they describe.

    Parameters
    ----------
    x_shape : tuple of int
        (N, C, H, W), in pixels.
    w_shape : tuple of int
        (K, C/groups, R, S).
    stride, dilation : int or pair of int
        In pixels, (rows, columns).
    padding : int, pair, ((top, bottom), (left, right)), "same" or "valid"
        Zeros around the image, in pixels.
    groups : int
        Blocks of channels convolved apart from each other.
    dtype : dtype-like
        float32, float64, float16, or bfloat16 of ml_dtypes.
    names : pair of str
        What the caller calls the first two arguments, for the messages.

    Returns
    -------
    ConvProblem

    Raises
    ------
    TypeError
        An argument that is no integer where one is due, or another dtype.
    ValueError
        Extents that do not fit together; the message names the argument.
    """
    x_name, w_name = names
    N, C, H, W = _shape(x_shape, x_name, "(N, C, H, W)")
    K, C_group, R, S = _shape(w_shape, w_name, "(K, C/groups, R, S)")
    if min(C, H, W) < 1:
        raise ValueError(f"{x_name}: got shape {(N, C, H, W)}, expected C, H and W of at least 1")
    if min(K, C_group, R, S) < 1:
        raise ValueError(f"{w_name}: got shape {(K, C_group, R, S)}, expected no extent of 0")
    stride = pair(stride, "stride", 1)
    dilation = pair(dilation, "dilation", 1)
    sides = _sides(padding, stride, dilation, R, S)
    groups = integer(groups, "groups", 1)
    if C % groups or K % groups:
        raise ValueError(
            f"groups: got {groups}, expected a divisor of both the {C} channels of {x_name} "
            f"and the {K} filters of {w_name}"
        )
    if C_group * groups != C:
        raise ValueError(
            f"{w_name}: got {C_group} channels per filter, expected {C // groups} "
            f"({C} channels of {x_name} in {groups} groups)"
        )
    dtype = checked_dtype(dtype)
    for axis, image, (before, after), taps, step in (
        ("rows", H, sides[0], R, dilation[0]),
        ("columns", W, sides[1], S, dilation[1]),
    ):
        if image + before + after > EXTENT_MAX:
            raise ValueError(
                f"padding: got {(before, after)} for the {axis}, expected a padded image of "
                f"at most {EXTENT_MAX} {axis}"
            )
        extent = step * (taps - 1) + 1
        if extent > image + before + after:
            raise ValueError(
                f"{w_name}: got a kernel of {extent} {axis} (dilation counted), expected at most "
                f"the {image + before + after} {axis} of the padded image"
            )
    return ConvProblem(N, C, H, W, K, R, S, stride, sides, dilation, groups, dtype)
