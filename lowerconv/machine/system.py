"""How the system is set and what else runs on it: frequency governor, huge pages, load."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lowerconv.machine.cgroup import read_or_none
from lowerconv.machine.topology import SYSFS


def frequency_scaling(cpus: Iterable[int], sysfs: Path = SYSFS) -> dict[str, Any]:
    """Tell who decides on the frequency of the cores, and by which rule.

    Parameters
    ----------
    cpus : iterable of int
    sysfs : Path
        Root of the kernel's file system of devices.

    Returns
    -------
    dict
        ``drivers`` and ``governors``: sorted lists of those of all the CPUs, both empty where the
        system does not tell, as in most virtual machines.
    """
    found = {}
    for key, name in (("drivers", "scaling_driver"), ("governors", "scaling_governor")):
        files = [sysfs / f"devices/system/cpu/cpu{cpu}/cpufreq/{name}" for cpu in cpus]
        found[key] = sorted(set(filter(None, map(read_or_none, files))))
    return found


def huge_pages(sysfs: Path = SYSFS) -> str | None:
    """Tell which memory gets transparent huge pages.

    Returns
    -------
    str or None
        ``"always"``, ``"madvise"`` (what asks for them, as NumPy's large arrays do) or ``"never"``;
        None where the system does not tell.
    """
    text = read_or_none(sysfs / "kernel/mm/transparent_hugepage/enabled") or ""
    chosen = re.search(r"\[(\w+)\]", text)
    return chosen[1] if chosen else None


def load_average() -> float | None:
    """Tell how many threads were running or waiting for a core in the last minute, on average."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none; some systems cannot tell
        return None
