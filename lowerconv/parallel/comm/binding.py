"""What launchers do to the ranks of a host: several on one core, or one core each of many."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from lowerconv.machine.mpi import UNBIND
from lowerconv.machine.topology import Topology, format_cpu_list

IDLE, SHARED, CROWDED = "idle", "shared", "crowded"


class Squeeze(NamedTuple):
    """What is wrong with the ranks of one host.

    Attributes
    ----------
    kind : str
        ``IDLE``: they have one core each, and `cores` others have no rank. ``SHARED``: they have
        one core each, which other ranks use too. ``CROWDED``: they are more than the `cores`.
    ranks : tuple of int
    cores : int
    """

    kind: str
    ranks: tuple[int, ...]
    cores: int


def find_squeeze(
    ranks: Sequence[int], masks: Sequence[Collection[int]], host: Topology
) -> Squeeze | None:
    """Tell whether the ranks of a host got too little of it.

    Parameters
    ----------
    ranks : sequence of int
        Those on this host, by their number in the job.
    masks : sequence of collection of int
        The CPUs that each of them may use.
    host : Topology
        Of the whole host.

    Returns
    -------
    Squeeze or None
        None if all is well: ranks with several cores, or one core for each rank and none idle.
    """
    core_of = {cpu: core for core in host.cores for cpu in core}
    cores = [{core_of[cpu] for cpu in mask if cpu in core_of} for mask in masks]
    used = set().union(*cores)
    narrow = [i for i, mine in enumerate(cores) if len(mine) == 1]
    idle = len(host.cores) - len(used)
    if narrow and idle:
        return Squeeze(IDLE, tuple(ranks[i] for i in narrow), idle)
    if len(ranks) > len(used):
        return Squeeze(CROWDED, tuple(ranks), len(used))
    others = [i for i in narrow if any(cores[i] & cores[j] for j in range(len(cores)) if j != i)]
    return Squeeze(SHARED, tuple(ranks[i] for i in others), len(used)) if others else None


def describe_squeezes(squeezes: Iterable[Squeeze]) -> list[str]:
    """Write what is wrong on all hosts as warnings, one for each kind, each with its cure."""
    found: dict[str, list[Squeeze]] = {}
    for squeeze in squeezes:
        found.setdefault(squeeze.kind, []).append(squeeze)
    return [_describe(kind, found[kind]) for kind in (IDLE, SHARED, CROWDED) if kind in found]


def _describe(kind: str, squeezes: list[Squeeze]) -> str:
    ranks = sorted(rank for squeeze in squeezes for rank in squeeze.ranks)
    cores = sum(squeeze.cores for squeeze in squeezes)
    who = format_cpu_list(ranks)
    if kind == CROWDED:
        return (
            f"{len(ranks)} ranks (numbers {who}) take turns on {cores} core{'s' * (cores > 1)}, "
            "and each waits for all others. Start one rank per core at most: fewer ranks use more "
            "threads each."
        )
    if kind == IDLE:
        trouble = "while 1 other has" if cores == 1 else f"while {cores} others have"
        trouble += " no rank"
    else:
        trouble = "together with other ranks"
    return (
        f"The launcher bound rank{'s' * (len(ranks) > 1)} {who} to a single core, {trouble}. Give "
        f"each rank its share of the cores: {UNBIND}."
    )
