"""What kernels take of NumPy's arrays: as they are, under another name, or as a copy."""

from __future__ import annotations

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.runtime.workspace import check_bytes


@not_copied("copy the array")
class _Alias:
    """The memory of an array, offered as if it were writable; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def contiguous(array: np.ndarray, name: str) -> np.ndarray:
    """Return `array` in C order, aligned, and of the one type that kernels are compiled for.

    Numba compiles a kernel anew for each kind of array: so read-only arrays come as a writable
    alias of the same memory (inputs are never written), and all others as a copy in C order.
    """
    flags = array.flags
    known = array.dtype.isbuiltin == 1  # to NumPy alone: bfloat16 is not
    if flags.c_contiguous and flags.aligned and (known or flags.writeable):
        return np.asarray(array) if flags.writeable else np.asarray(_Alias(array))
    check_bytes(array.size * array.itemsize, f"{name}: a contiguous copy")
    return np.array(array, order="C", subok=False)


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether arrays share memory; True, too, where that takes too long to find out."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True  # cannot be told in reasonable time, so it is not taken


def are_slices(images: np.ndarray) -> bool:
    """Return whether each image of (N, C, H, W) is contiguous, with gaps between them or none.

    Such as ``x[:, 3:7]`` of a contiguous `x`.
    """
    if images.ndim != 4:
        return False
    _, C, H, W = images.shape
    item, flags = images.itemsize, images.flags
    first, *rest = images.strides
    return (
        flags.aligned
        and flags.writeable
        and first >= C * H * W * item
        and first % item == 0
        and all(
            step == expected or extent == 1
            for step, expected, extent in zip(
                rest, (H * W * item, W * item, item), (C, H, W), strict=True
            )
        )
    )


def flat_images(array: np.ndarray) -> tuple[np.ndarray, int, int, int, int, int]:
    """Return images that may lie apart, (N, C, H, W), as the fields of `ops.images.Images`.

    Arrays of other dimensions are one image of one channel and row.
    """
    if array.ndim != 4:
        return array.reshape(-1), array.size, 1, 1, 1, array.size
    N, C, H, W = array.shape
    if array.flags.c_contiguous:
        return array.reshape(-1), C * H * W, N, C, H, W
    step = array.strides[0] // array.itemsize
    span = (N - 1) * step + C * H * W
    flat = np.lib.stride_tricks.as_strided(array, (span,), (array.itemsize,))
    return flat, step, N, C, H, W
