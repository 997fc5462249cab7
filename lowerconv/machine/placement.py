"""Who sits where: the ranks of a host, and the workers of a rank.

Everything here is arithmetic on a `Topology`: nothing is read from the machine, nothing is bound.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import cycle, groupby, islice, pairwise, zip_longest
from typing import NamedTuple

from lowerconv.checks import integer
from lowerconv.machine.topology import Topology, format_cpu_list

POLICIES = ("compact", "spread")

# Cores of one sort differ a little too: a few of a chip may reach a higher frequency.
SAME_CAPACITY = 0.9

# Depths of `_Seat`: seats that agree in so many of their first fields share...
PACKAGE, NODE, CLUSTER, MODULE, CORE = 1, 2, 4, 5, 6
# How much better a cut between packages is than one between NUMA nodes, and so on: more than all
# the CPUs of a machine could make up for.
WORSE = 10_000
LAST = 1_000  # turn of what comes after everything else


class _Seat(NamedTuple):
    """Where a worker can sit. Sorted, seats that share the most stand side by side."""

    package: int
    node: int  # index in `Topology.numa_nodes`
    kind: int  # sort of core, 0 the fastest
    cluster: int  # first CPU of those that share its last cache
    module: int  # first CPU of those that share its second cache
    core: int  # first CPU of the core
    turn: int  # 0 for the first thread of a core, 1 for its first SMT sibling...
    cpus: tuple[int, ...]


def placement(
    topology: Topology, policy: str | Sequence[int], threads: int, pairs: bool = False
) -> tuple[int, ...]:
    """Choose the CPU of every worker.

    Each core gets one worker before any gets a second, on its SMT sibling: siblings share the FMA
    units, which one thread fills. Fast cores come before slow ones. When there are more workers
    than CPUs, CPUs are used again, all of them equally often.

    Whatever is chosen, workers are numbered in the order of the machine: those of a NUMA node are
    consecutive, and so are those of a cache, so that contiguous shares of the images stay there.

    Parameters
    ----------
    topology : Topology
        Of the CPUs that may be used.
    policy : {"compact", "spread"} or sequence of int
        ``"compact"`` fills one cache, NUMA node and package after the other. ``"spread"`` takes as
        many cores of each NUMA node, and within it of each last-level cache, as of the others,
        which gives the workers all of the caches and of the memory bandwidth. Or the CPUs
        themselves, that of worker 0 first; those left over are not used.
    threads : int
        How many workers, at least 1.
    pairs : bool
        Workers 2i and 2i + 1 get two SMT siblings of one core, or two neighbouring cores where
        there are no siblings. Says nothing to CPUs that are given themselves.

    Returns
    -------
    tuple of int
        The CPU of worker 0, 1, ...

    Raises
    ------
    ValueError
        `policy` is unknown, has fewer CPUs than `threads`, or has one that is not in `topology`.
    """
    threads = integer(threads, "threads", 1)
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise ValueError(
                f'policy: got {policy!r}, expected "compact", "spread" or a list of CPUs'
            )
    else:
        return _given(topology, tuple(policy), threads)
    seats = _seats(topology)
    seats = _paired(seats) if pairs else seats
    arrange = list if policy == "compact" else _spread
    order: list[_Seat] = []
    for _, alike in groupby(sorted(seats, key=_last_resort), key=_last_resort):
        order += arrange(list(alike))
    workers_per_seat = 2 if pairs else 1
    taken = islice(cycle(order), -(-threads // workers_per_seat))
    cpus: list[int] = []
    # A CPU that found no other to make a pair with comes last: there it may stay alone.
    for seat in sorted(taken, key=lambda seat: (len(seat.cpus) < workers_per_seat, seat)):
        cpus += islice(cycle(seat.cpus), workers_per_seat)
    return tuple(cpus[:threads])


def nodes_of(topology: Topology, cpus: Iterable[int]) -> tuple[int, ...]:
    """Tell the NUMA node of each CPU.

    Parameters
    ----------
    topology : Topology
    cpus : iterable of int
        For example those of a placement.

    Returns
    -------
    tuple of int
        Indices in ``topology.numa_nodes``, from 0 and without gaps, which the kernel's numbers of
        the nodes may have.

    Raises
    ------
    ValueError
        A CPU is not in `topology`.
    """
    node_of = {cpu: i for i, node in enumerate(topology.numa_nodes) for cpu in node.cpus}
    cpus = tuple(cpus)
    _check_known("cpus", cpus, topology)
    return tuple(node_of[cpu] for cpu in cpus)


def divide(masks: Sequence[Collection[int]], rank: int, topology: Topology) -> tuple[int, ...]:
    """Tell which CPUs belong to one of the ranks of a host.

    CPUs that only one rank may use are its own, as a launcher that binds its ranks means it. The
    others are divided among the ranks that may use them: whole cores, as many for each, of each
    sort of core, cut where the least is shared (packages, NUMA nodes, caches). Cores are split
    into their SMT siblings only for ranks that would get none, and ranks that still get none share
    the CPUs of others, in turns. All CPUs are given away: every rank can ask for its own share and
    all answers fit together.

    Parameters
    ----------
    masks : sequence of collection of int
        The CPUs that each rank of this host may use.
    rank : int
        Whose share: an index in `masks`.
    topology : Topology
        Of the CPUs of all masks, or of more. CPUs that it does not list (switched off) are left
        out.

    Returns
    -------
    tuple of int
        Ascending, at least one.

    Raises
    ------
    ValueError
        `rank` is not in `masks`, or a mask has no CPU of `topology`.
    """
    rank = integer(rank, "rank", 0)
    if rank >= len(masks):
        raise ValueError(f"rank: got {rank}, expected less than {len(masks)}, the number of masks")
    usable = set(topology.cpus)
    allowed = [usable.intersection(mask) for mask in masks]
    for number, cpus in enumerate(allowed):
        if not cpus:
            raise ValueError(
                f"masks: got no usable CPU for rank {number}, expected at least one of "
                f"{format_cpu_list(usable)}"
            )
    seats = _seats(topology)
    shares = _share_out(seats, allowed)
    if not all(shares):
        wanted = set().union(*(allowed[r] for r, share in enumerate(shares) if not share))
        shares = _share_out(seats, allowed, split={c[0] for c in topology.cores if wanted & {*c}})
    if not shares[rank]:
        order = [cpu for seat in seats for cpu in seat.cpus if cpu in allowed[rank]]
        return (order[sum(not share for share in shares[:rank]) % len(order)],)
    return tuple(sorted(shares[rank]))


def without_spare(topology: Topology, cpus: Collection[int]) -> tuple[tuple[int, ...], int | None]:
    """Set one core aside for a thread that communicates.

    Parameters
    ----------
    topology : Topology
    cpus : collection of int
        Of this process, for example its share by `divide`.

    Returns
    -------
    compute : tuple of int
        `cpus` without all those of the spare core, in the same order.
    spare : int or None
        A CPU of that core: the last one of its NUMA node, of the slowest sort there. None where
        there is only one core, which computes then.

    Raises
    ------
    ValueError
        `cpus` is empty, or has one that is not in `topology`.
    """
    _check_known("cpus", cpus, topology)
    if not cpus:
        raise ValueError("cpus: got none, expected at least one")
    seats = [seat for seat in _seats(topology) if seat.cpus[0] in set(cpus)]
    if len({seat.core for seat in seats}) == 1:
        return tuple(cpus), None
    mine = [seat.cpus[0] for seat in seats if seat.core == seats[-1].core]
    return tuple(cpu for cpu in cpus if cpu not in mine), mine[0]


def _given(topology: Topology, cpus: tuple[int, ...], threads: int) -> tuple[int, ...]:
    if len(cpus) < threads:
        raise ValueError(
            f"policy: got {len(cpus)} CPUs, expected at least {threads}, one for each thread"
        )
    _check_known("policy", cpus, topology)
    return cpus[:threads]


def _check_known(argument: str, cpus: Collection[int], topology: Topology) -> None:
    unknown = set(cpus).difference(topology.cpus)
    if unknown:
        raise ValueError(
            f"{argument}: got CPU {', '.join(map(str, sorted(unknown)))}, expected usable ones: "
            f"{format_cpu_list(topology.cpus)}"
        )


def _seats(topology: Topology) -> list[_Seat]:
    """Return a seat for each CPU, in the order of the machine."""
    package_of = {cpu: p.number for p in topology.packages for cpu in p.cpus}
    node_of = {cpu: i for i, node in enumerate(topology.numa_nodes) for cpu in node.cpus}
    module_of, cluster_of = dict.fromkeys(topology.cpus, -1), dict.fromkeys(topology.cpus, -1)
    for cache in topology.caches:  # ascending by level: the last one stays
        for cpu in cache.cpus:
            cluster_of[cpu] = cache.cpus[0]
            if cache.level == 2:
                module_of[cpu] = cache.cpus[0]
    seats = []
    for core, kind in zip(topology.cores, _kinds(topology), strict=True):
        first = core[0]
        place = (package_of[first], node_of[first], kind, cluster_of[first], module_of[first])
        seats += [_Seat(*place, first, turn, (cpu,)) for turn, cpu in enumerate(core)]
    return sorted(seats)


def _kinds(topology: Topology) -> list[int]:
    """Tell the sort of each core: 0 for the fastest.

    Sorts differ in capacity, or where that is not told (hybrid x86 with SMT) in the size of L1.
    """
    l1 = {
        cpu: cache.bytes
        for cache in topology.caches
        if cache.level == 1 and cache.kind != "instruction"
        for cpu in cache.cpus
    }
    capacities = topology.capacities or (0,) * len(topology.cores)
    leader_of: dict[int, int] = {}  # the greatest capacity of the same sort
    leader = max(capacities)
    for capacity in sorted(set(capacities), reverse=True):
        if capacity < SAME_CAPACITY * leader:
            leader = capacity
        leader_of[capacity] = leader
    sorts = [
        (-leader_of[capacity], -l1.get(core[0], 0))
        for core, capacity in zip(topology.cores, capacities, strict=True)
    ]
    ranking = sorted(set(sorts))
    return [ranking.index(sort) for sort in sorts]


def _last_resort(seat: _Seat) -> tuple[int, int]:
    return seat.turn, seat.kind


def _groups(seats: Iterable[_Seat], depth: int) -> list[list[_Seat]]:
    """Return those that share a package, a node... as lists, in the order of the machine."""
    return [list(group) for _, group in groupby(seats, key=lambda seat: seat[:depth])]


def _interleave(lists: Iterable[list]) -> list:
    return [x for column in zip_longest(*lists) for x in column if x is not None]


def _spread(seats: list[_Seat]) -> list[_Seat]:
    """Order seats so that any number of first ones is even over NUMA nodes and over caches."""
    nodes = _interleave(_groups(package, NODE) for package in _groups(seats, PACKAGE))
    return _interleave(_interleave(_groups(node, CLUSTER)) for node in nodes)


def _paired(seats: list[_Seat]) -> list[_Seat]:
    """Return seats of two CPUs each, and one of a single CPU if the number is odd."""
    made, left = [], seats
    # Siblings first, then those that share a module, a cluster... and last of all only the machine.
    for depth in range(CORE, -1, -1):
        alone = []
        for group in _groups(left, depth):
            for one, other in zip(group[::2], group[1::2], strict=False):
                # The pairs of a core with four siblings: 0 and 1 first, 2 and 3 when all have two.
                made.append(one._replace(turn=other.turn // 2, cpus=one.cpus + other.cpus))
            alone += group[len(group) // 2 * 2 :]
        left = alone
    return sorted(made) + [seat._replace(turn=LAST) for seat in left]


def _share_out(
    seats: list[_Seat], allowed: list[set[int]], split: Collection[int] = ()
) -> list[list[int]]:
    """Divide all CPUs among ranks; all cores but those whose first CPU is in `split` stay whole."""
    units: dict[tuple, _Seat] = {}
    for seat in seats:
        (cpu,) = seat.cpus
        owners = tuple(rank for rank, cpus in enumerate(allowed) if cpu in cpus)
        if not owners:
            continue
        key = (owners, cpu if seat.core in split else seat.core)
        unit = units.get(key)
        units[key] = seat if unit is None else unit._replace(cpus=unit.cpus + seat.cpus)
    regions: dict[tuple, list[_Seat]] = {}
    for (owners, _), unit in units.items():
        regions.setdefault((len(owners), unit.kind, owners), []).append(unit)
    shares: list[list[int]] = [[] for _ in allowed]
    loads = [0] * len(allowed)
    # What few ranks may use first: what many may use then makes good for it.
    for (*_, owners), region in sorted(regions.items()):
        for rank, piece in zip(owners, _cut(region, [loads[r] for r in owners]), strict=True):
            shares[rank] += [cpu for unit in piece for cpu in unit.cpus]
            loads[rank] += len(piece)
    return shares


def _cut(units: list[_Seat], loads: list[int]) -> list[list[_Seat]]:
    """Cut units into consecutive pieces that level the loads, where neighbours share the least."""
    level = min(loads)
    while sum(max(0, level + 1 - load) for load in loads) <= len(units):
        level += 1
    # Pieces bring every load to the level; units left over go one each to where they cut best.
    worth = [0, *(_apart(one, other) for one, other in pairwise(units)), 0]
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}  # where the last piece ends
    for load in loads:
        reached: dict[int, tuple[int, tuple[int, ...]]] = {}
        size = max(0, level - load)
        for start in sorted(best, reverse=True):  # of equal ways, the larger pieces first
            value, cuts = best[start]
            for end in range(start + size, min(start + size + (load <= level), len(units)) + 1):
                total = value + (worth[end] if end > start else 0)
                if end not in reached or total > reached[end][0]:
                    reached[end] = (total, (*cuts, end))
        best = reached
    _, cuts = best[len(units)]
    return [units[start:end] for start, end in pairwise(cuts)]


def _apart(one: _Seat, other: _Seat) -> int:
    """Tell how good a place to cut is between two neighbours: the less they share the better."""
    shared = next((i for i in range(CORE) if one[i] != other[i]), CORE)
    return WORSE ** (CORE - shared)
