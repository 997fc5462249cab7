"""Permission to use the tile registers of AMX, which Linux gives to processes that ask for it.

The registers have 8 KiB, that are saved wherever a thread is interrupted, on its stack where that
is by a signal: so a process gets them only when it asks, and keeps them until it executes another
program [1]_.  Threads have the permission of their process, and so have its children.

References
----------
.. [1] Linux kernel documentation, Using XSTATE features in user space applications.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import lru_cache

ARCH_PRCTL = 158  # number of the system call on x86-64
REQUEST, TILE_DATA = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA


@lru_cache
def tiles_granted() -> bool:
    """Return whether this process may use tile registers; ask for them the first time.

    Refused where the kernel has none (before Linux 5.16, elsewhere), or a thread has too small a
    stack for signals (``sigaltstack``).
    """
    if sys.platform != "linux" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        syscall = ctypes.CDLL(None).syscall
    except (OSError, AttributeError):
        return False
    syscall.restype, syscall.argtypes = ctypes.c_long, [ctypes.c_long] * 3
    return syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0
