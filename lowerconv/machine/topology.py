"""The CPUs that this process may use: packages, NUMA nodes, cores, SMT siblings, caches.

Everything is read from the kernel's own files (``/sys/devices/system``), whose root path can be
replaced, so that any machine can be tested on any other. Nothing here fails on a machine that says
less than Linux on bare metal does: what is unknown is assumed, and marked so.
"""

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from lowerconv.machine.cgroup import CGROUP, PROC_CGROUP, cpu_quota, read_or_none

SYSFS = Path("/sys")

KIB = 1024
# Used only where the machine tells nothing about its caches. Small ones: a block too small for its
# cache costs a few percent, one too large far more.
ASSUMED_CACHE_BYTES = {
    1: 32 * KIB,  # data, per core
    2: 256 * KIB,  # per core
    3: 2048 * KIB,  # shared by all cores
}

_UNITS = {"": 1, "K": KIB, "M": KIB**2, "G": KIB**3}


@dataclass(frozen=True)
class Cache:
    """One cache: the CPUs listed share it.

    Attributes
    ----------
    level : int
        1 is nearest to the core.
    kind : str
        ``"data"``, ``"instruction"`` or ``"unified"``.
    bytes : int
        Size of the whole cache, not of one CPU's share.
    cpus : tuple of int
        Those usable CPUs that share it, in ascending order.
    """

    level: int
    kind: str
    bytes: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Package:
    """A socket: its number as the kernel counts, and its usable CPUs in ascending order."""

    number: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class NumaNode:
    """A NUMA node: its number as the kernel counts, and its usable CPUs in ascending order."""

    number: int
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """What the usable CPUs share, cut down to those CPUs: nothing without a usable CPU is listed.

    Attributes
    ----------
    packages : tuple of Package
        Ascending by number.
    numa_nodes : tuple of NumaNode
        Ascending by number, without those that have memory only.
    cores : tuple of tuple of int
        Each physical core as the tuple of its usable SMT siblings; ascending by first CPU.
    caches : tuple of Cache
        Ascending by level; empty where the machine does not tell.
    capacities : tuple of int
        What each core can do beside the fastest, which has 1024, in the order of `cores`; empty
        where the machine does not tell.
    """

    packages: tuple[Package, ...]
    numa_nodes: tuple[NumaNode, ...]
    cores: tuple[tuple[int, ...], ...]
    caches: tuple[Cache, ...]
    capacities: tuple[int, ...] = ()

    @property
    def cpus(self) -> tuple[int, ...]:
        """All usable CPUs (SMT threads) in ascending order."""
        return tuple(sorted(cpu for core in self.cores for cpu in core))

    def cache_bytes(self, level: int) -> int:
        """Size of the smallest data or unified cache of a level.

        The smallest, because blocks of one size run on every core of a big.LITTLE machine.

        Parameters
        ----------
        level : int
            1, 2, 3 or higher.

        Returns
        -------
        int
            Bytes of one whole cache, however many CPUs share it; from ``ASSUMED_CACHE_BYTES`` where
            it is not known (`cache_assumed` tells); 0 for a level that is not there, which is one
            above 2 on a machine that does describe its lower caches.
        """
        known = self._known_sizes(level)
        if known:
            return min(known)
        return ASSUMED_CACHE_BYTES[level] if self.cache_assumed(level) else 0

    def cache_assumed(self, level: int) -> bool:
        """Whether ``cache_bytes(level)`` is an assumption and not read from the machine."""
        if self._known_sizes(level):
            return False
        # Every CPU has the first two levels, so their absence is a gap in what the machine tells;
        # many have no third.
        return level <= 2 or (level in ASSUMED_CACHE_BYTES and not self.caches)

    def _known_sizes(self, level: int) -> list[int]:
        return [c.bytes for c in self.caches if c.level == level and c.kind != "instruction"]


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Read a CPU list as the kernel writes it.

    Parameters
    ----------
    text : str
        For example ``"0-3,8,10-11"``; empty for no CPU. White space around it does not matter.

    Returns
    -------
    tuple of int
        Ascending, each CPU once.

    Raises
    ------
    ValueError
        If the text is anything else.
    """
    cpus: set[int] = set()
    for piece in text.strip().split(",") if text.strip() else ():
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", piece.strip())
        if match is None:
            raise ValueError(f"not a CPU list: {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"CPU list with a range that runs backwards: {text!r}")
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Write CPUs as the kernel does, for example ``"0-3,8,10-11"``: turns `parse_cpu_list` back."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1][1:] = [cpu]
        else:
            runs.append([cpu])
    return ",".join("-".join(map(str, run)) for run in runs)


def online_cpus(sysfs: Path = SYSFS) -> tuple[int, ...]:
    """CPUs that the machine has running, whether this process may use them or not."""
    online = _read_cpu_list(sysfs / "devices/system/cpu/online")
    return online or tuple(range(os.cpu_count() or 1))


def usable_cpus() -> tuple[int, ...]:
    """CPUs that this process may run on, ascending.

    Returns
    -------
    tuple of int
        The affinity mask, which ``taskset``, cpusets, batch systems and ``mpiexec`` set; where the
        system has none (macOS, Windows), all CPUs.
    """
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def read_topology(sysfs: Path = SYSFS, usable: Collection[int] | None = None) -> Topology:
    """Read the topology of the CPUs that this process may use.

    Parameters
    ----------
    sysfs : Path
        Root of the kernel's file system of devices.
    usable : collection of int, optional
        CPUs to describe; those that are switched off are ignored. Default: `usable_cpus`.

    Returns
    -------
    Topology
        What is missing under `sysfs` is filled in: each CPU a core of its own, one package, one
        NUMA node, no caches, no capacities.

    Raises
    ------
    ValueError
        If `usable` is empty.
    """
    cpus = _running(sysfs, usable_cpus() if usable is None else usable)
    cores = _read_cores(sysfs, cpus)
    return Topology(
        packages=_read_packages(sysfs, cpus),
        numa_nodes=_read_numa_nodes(sysfs, cpus),
        cores=cores,
        caches=_read_caches(sysfs, cpus),
        capacities=_read_capacities(sysfs, cores),
    )


def usable_threads(
    sysfs: Path = SYSFS,
    cgroup: Path = CGROUP,
    proc: Path = PROC_CGROUP,
    usable: Collection[int] | None = None,
) -> int:
    """How many threads pay for arithmetic: one per physical core, no more than the quota feeds.

    SMT siblings are not counted: they share the core's FMA units, which one thread fills.

    Parameters
    ----------
    sysfs, cgroup, proc, usable
        As for `read_topology` and `cpu_quota`.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If `usable` is empty.
    """
    cpus = _running(sysfs, usable_cpus() if usable is None else usable)
    threads = len(_read_cores(sysfs, cpus))
    quota = cpu_quota(cgroup, proc)
    if quota is not None:
        threads = min(threads, int(quota))
    return max(1, threads)


def _running(sysfs: Path, usable: Collection[int]) -> tuple[int, ...]:
    """Return the usable CPUs less those switched off, ascending."""
    if not usable:
        raise ValueError("usable must name at least one CPU")
    # Each CPU's own file is asked: containers (lxcfs) replace the list of all CPUs by one that is
    # counted from 0 and does not go with the numbers in the affinity mask.
    cpu_dir = sysfs / "devices/system/cpu"
    running = [cpu for cpu in usable if read_or_none(cpu_dir / f"cpu{cpu}/online") != "0"]
    return tuple(sorted(set(running or usable)))


def _read_cpu_list(path: Path) -> tuple[int, ...]:
    """Return the CPUs listed in a file, none if it is missing or cannot be understood."""
    try:
        return parse_cpu_list(read_or_none(path) or "")
    except ValueError:
        return ()


def _read_cores(sysfs: Path, cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    left = set(cpus)
    cores = []
    for cpu in cpus:
        if cpu in left:
            topology = sysfs / f"devices/system/cpu/cpu{cpu}/topology"
            siblings = _read_cpu_list(topology / "core_cpus_list") or _read_cpu_list(
                topology / "thread_siblings_list"  # its name before Linux 5.3
            )
            core = left.intersection(siblings) | {cpu}
            left -= core
            cores.append(tuple(sorted(core)))
    return tuple(cores)


def _read_capacities(sysfs: Path, cores: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    texts = [
        read_or_none(sysfs / f"devices/system/cpu/cpu{core[0]}/cpu_capacity") or ""
        for core in cores
    ]
    # Of some cores only it would say nothing about the others.
    known = all(text.isdecimal() and int(text) for text in texts)
    return tuple(map(int, texts)) if known else ()


def _read_packages(sysfs: Path, cpus: tuple[int, ...]) -> tuple[Package, ...]:
    members: dict[int, list[int]] = {}
    for cpu in cpus:
        path = sysfs / f"devices/system/cpu/cpu{cpu}/topology/physical_package_id"
        number = read_or_none(path) or ""
        # Firmware that does not know says -1.
        members.setdefault(int(number) if number.isdecimal() else 0, []).append(cpu)
    return tuple(Package(number, tuple(members[number])) for number in sorted(members))


def _read_numa_nodes(sysfs: Path, cpus: tuple[int, ...]) -> tuple[NumaNode, ...]:
    left = set(cpus)
    members: dict[int, set[int]] = {}
    for directory in (sysfs / "devices/system/node").glob("node[0-9]*"):
        mine = left.intersection(_read_cpu_list(directory / "cpulist"))
        if mine and directory.name[4:].isdecimal():
            members[int(directory.name[4:])] = mine
            left -= mine
    if left:  # no CPU may get lost: those of no node join the first
        members.setdefault(min(members, default=0), set()).update(left)
    return tuple(NumaNode(number, tuple(sorted(members[number]))) for number in sorted(members))


def _read_caches(sysfs: Path, cpus: tuple[int, ...]) -> tuple[Cache, ...]:
    caches = set()  # each is described once per CPU that shares it
    for cpu in cpus:
        for index in (sysfs / f"devices/system/cpu/cpu{cpu}/cache").glob("index[0-9]*"):
            level, kind = read_or_none(index / "level"), read_or_none(index / "type")
            size = re.fullmatch("([0-9]+)([KMG]?)", read_or_none(index / "size") or "")
            if not (level and level.isdecimal() and kind and size and int(size[1])):
                continue
            shared = {cpu}.union(_read_cpu_list(index / "shared_cpu_list")).intersection(cpus)
            nbytes = int(size[1]) * _UNITS[size[2]]
            caches.add(Cache(int(level), kind.lower(), nbytes, tuple(sorted(shared))))
    return tuple(sorted(caches, key=lambda cache: (cache.level, cache.kind, cache.cpus)))
