"""Run by mpiexec: the ranks divide the CPUs of their host, real or made up.

usage: shares.py HOSTS

HOSTS is JSON, a list: of each host SYSFS, CGROUP, PROC and MASKS, the files that describe it and
the CPUs that rank i may use (those of the last mask, if there are fewer), or nothing for the real
one.  Rank 0 prints a list for each host, as JSON: the share and the threads of each rank, and the
warnings.
"""

import json
import sys
from functools import partial
from pathlib import Path

from lowerconv.machine.topology import format_cpu_list, parse_cpu_list
from lowerconv.parallel import world
from lowerconv.parallel.comm import communicator, mpi_communicator

ONLINE, TOPOLOGY = communicator.online_cpus, communicator.read_topology
QUOTA = communicator.cpu_quota


def make_up(sysfs: str, cgroup: str, proc: str, texts: list[str]) -> None:
    """Let this process believe in another host."""
    masks = [parse_cpu_list(mask) for mask in texts]
    mine = masks[min(mpi_communicator.launched_rank(), len(masks) - 1)]
    communicator.usable_cpus = mpi_communicator.usable_cpus = lambda: mine
    communicator.online_cpus = partial(ONLINE, Path(sysfs))
    communicator.read_topology = partial(TOPOLOGY, Path(sysfs))
    communicator.cpu_quota = partial(QUOTA, Path(cgroup), Path(proc))


def divided() -> list[str]:
    """Return what the ranks have, and raise unless it is divided as it should be."""
    c = world()
    everyone = c.gather((communicator.usable_cpus(), c.cpus, c.threads, c.warnings))
    masks, shares, threads, warnings = zip(*everyone, strict=True)
    usable = set().union(*masks)
    topology = communicator.read_topology(usable=usable)
    quota = communicator.cpu_quota()

    assert c.cpus == shares[c.rank]
    assert all(share and set(share) <= set(mask) for mask, share in zip(masks, shares, strict=True))
    assert set().union(*shares) == set(topology.cpus)
    if len(set(masks)) == 1 and c.ranks <= len(topology.cpus):
        assert sum(map(len, shares)) == len(topology.cpus), "a CPU belongs to several ranks"
    cores = sum(not set(core).isdisjoint(c.cpus) for core in topology.cores)
    assert c.threads == (cores if quota is None else max(1, min(cores, int(quota / c.ranks))))
    assert all(each == c.warnings for each in warnings), "ranks know different warnings"
    lines = [
        f"{format_cpu_list(cpus)} {number}" for cpus, number in zip(shares, threads, strict=True)
    ]
    return lines + c.warnings


for host in json.loads(sys.argv[1]):
    if host:
        make_up(*host)
    lines = divided()
    if mpi_communicator.launched_rank() == 0:
        print(json.dumps(lines))
