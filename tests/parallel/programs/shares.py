"""Run by mpiexec: the ranks divide the CPUs of their host, real or made up.

usage: shares.py [SYSFS CGROUP PROC MASK...]

With arguments the host is that of the files named, and rank i may use the CPUs of the i-th mask (of
the last one, if there are fewer).  Rank 0 prints the share and the threads of each rank, a line for
each, and the warnings.
"""

import sys
from functools import partial
from pathlib import Path

from lowerconv.machine.topology import format_cpu_list, parse_cpu_list
from lowerconv.parallel import world
from lowerconv.parallel.comm import communicator, mpi_communicator

if len(sys.argv) > 1:
    sysfs, cgroup, proc = map(Path, sys.argv[1:4])
    masks = [parse_cpu_list(mask) for mask in sys.argv[4:]]
    mine = masks[min(mpi_communicator.launched_rank(), len(masks) - 1)]
    communicator.usable_cpus = mpi_communicator.usable_cpus = lambda: mine
    communicator.online_cpus = partial(communicator.online_cpus, sysfs)
    communicator.read_topology = partial(communicator.read_topology, sysfs)
    communicator.cpu_quota = partial(communicator.cpu_quota, cgroup, proc)

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

if c.rank == 0:
    lines = [
        f"{format_cpu_list(cpus)} {number}" for cpus, number in zip(shares, threads, strict=True)
    ]
    print("\n".join(lines + c.warnings))
