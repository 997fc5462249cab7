"""How long the registers of SVE are, which the CPU decides, and Linux where it is told to.

A process may have shorter ones than its CPU: ``/proc/sys/abi/sve_default_vector_length``, or who
starts it, says so [1]_.  Threads have those of the thread that starts them.

References
----------
.. [1] Linux kernel documentation, Scalable Vector Extension support for AArch64 Linux.
"""

from __future__ import annotations

import ctypes
import platform
import sys

PR_SVE_GET_VL = 51
BYTES = 0xFFFF  # the part of the answer that is the length; flags are beside it


def vector_bits() -> int:
    """Return the length of this thread's registers of SVE, 0 where there are none."""
    if sys.platform != "linux" or platform.machine().lower() not in ("aarch64", "arm64"):
        return 0
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return 0
    answer = prctl(PR_SVE_GET_VL, *[ctypes.c_ulong(0)] * 4)
    return 8 * (answer & BYTES) if answer > 0 else 0
