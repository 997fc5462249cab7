"""How much memory there is, and how much of it this process could ever have."""

import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from lowerconv.machine.cgroup import CGROUP, PROC_CGROUP, control_groups, read_or_none
from lowerconv.machine.topology import KIB, SYSFS

try:
    import resource
except ImportError:  # Windows has no resource limits
    resource = None  # type: ignore[assignment]


@lru_cache
def memory_limit(cgroup: Path = CGROUP, proc: Path = PROC_CGROUP) -> int:
    """Bytes that this process could ever have: what needs more fails for certain.

    Read once: a call costs nothing after the first, and limits set later are not seen
    (``memory_limit.cache_clear()`` forgets).

    Parameters
    ----------
    cgroup, proc : Path
        As for `lowerconv.machine.cgroup.control_groups`.

    Returns
    -------
    int
        The smallest of the physical memory, the limits of the control groups on the path from the
        process's own to the root (versions 1 and 2), and the resource limits on address space and
        data. ``sys.maxsize`` where nothing is known, so that nothing is refused by mistake.
    """
    bounds = [*_group_limits(cgroup, proc), *_resource_limits()]
    return min([sys.maxsize, *filter(None, [physical_memory(), *bounds])])


def physical_memory() -> int | None:
    """Bytes of memory in this machine; None where the system does not tell."""
    try:
        nbytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return nbytes if nbytes > 0 else None


def resident_memory() -> int | None:
    """Bytes of memory that this process has now; None where the system does not tell."""
    text = read_or_none(Path("/proc/self/statm"))
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") if text else None


def node_memory(number: int, sysfs: Path = SYSFS) -> int | None:
    """Bytes of memory of a NUMA node; None where the system does not tell.

    Parameters
    ----------
    number : int
        Of the node, as the kernel counts.
    sysfs : Path
        Root of the kernel's file system of devices.
    """
    text = read_or_none(sysfs / f"devices/system/node/node{number}/meminfo") or ""
    total = re.search(r"MemTotal:\s*([0-9]+) kB", text)
    return int(total[1]) * KIB if total else None


def _group_limits(cgroup: Path, proc: Path) -> Iterator[int]:
    for group in control_groups("memory", cgroup, proc):
        for name in ("memory.max", "memory.limit_in_bytes"):  # version 2, version 1
            limit = read_or_none(group / name) or ""
            if limit.isdecimal():  # version 2 says "max" for none; version 1 a number near 2**63
                yield int(limit)


def _resource_limits() -> Iterator[int]:
    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        if hasattr(resource, name):
            soft, _ = resource.getrlimit(getattr(resource, name))
            if soft != resource.RLIM_INFINITY and soft > 0:
                yield soft
