"""Where memory lies: the NUMA node of every page of an array, as the kernel tells it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys

import numpy as np

SYS_MOVE_PAGES = {"x86_64": 279, "amd64": 279, "aarch64": 239, "arm64": 239, "riscv64": 239}


def page_nodes(array: np.ndarray) -> np.ndarray:
    """Return the NUMA node of each page that an array lies on.

    Parameters
    ----------
    array : ndarray
        Contiguous. Nothing is read from it or written to it.

    Returns
    -------
    ndarray of int32
        Of each page, in the order of addresses, the kernel's number of its node. Negative where
        there is no page yet: the number of an error, ``-ENOENT`` or ``-EFAULT`` where nobody has
        written.

    Raises
    ------
    ValueError
        `array` is not contiguous.
    OSError
        The system does not tell: it is not Linux, or it forbids the call (containers may).

    Notes
    -----
    ``move_pages(2)``, which only asks where it is given no nodes to move pages to.
    """
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        raise ValueError("array: got gaps between its elements, expected contiguous memory")
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{sys.platform} does not tell where pages lie")
    number = SYS_MOVE_PAGES.get(platform.machine().lower())
    if number is None:
        raise OSError(errno.ENOSYS, f"move_pages has no known number on {platform.machine()}")
    begin = array.ctypes.data // mmap.PAGESIZE
    end = -(-(array.ctypes.data + array.nbytes) // mmap.PAGESIZE) if array.nbytes else begin
    addresses = np.arange(begin, end, dtype=np.uintp) * mmap.PAGESIZE
    status = np.full(len(addresses), -errno.ENOENT, np.int32)
    system = ctypes.CDLL(None, use_errno=True).syscall
    result = system(
        ctypes.c_long(number),
        ctypes.c_long(0),  # this process
        ctypes.c_ulong(len(addresses)),
        ctypes.c_void_p(addresses.ctypes.data),
        ctypes.c_void_p(None),  # move nothing
        ctypes.c_void_p(status.ctypes.data),
        ctypes.c_long(0),
    )
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"move_pages: {os.strerror(code)}")
    return status
