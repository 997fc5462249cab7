"""Who runs where: the ranks of each host, with how many threads; alike hosts are told together."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lowerconv.machine.topology import format_cpu_list
from lowerconv.parallel.comm.communicator import Communicator

#: So many kinds of hosts are told one by one.
TOLD = 8


class Place(NamedTuple):
    """Where a rank runs.

    Attributes
    ----------
    host : str
        Its name.
    threads : int
    cores : int
        That this rank has of its host.
    numa_nodes : int
        Of the host, as far as its ranks may use them.
    """

    host: str
    threads: int
    cores: int
    numa_nodes: int

    @classmethod
    def of(cls, communicator: Communicator, threads: int) -> Place:
        """Return where this process runs."""
        return cls(platform.node(), threads, communicator.cores, communicator.numa_nodes)


class _Kind(NamedTuple):
    """What hosts have in common that are told together."""

    threads: tuple[int, ...]
    cores: tuple[int, ...]
    numa_nodes: int


class RankMap:
    """The ranks of a job, by their hosts.

    Parameters
    ----------
    places : sequence of Place
        Of each rank, in their order.
    hosts : sequence of sequence of int
        The ranks of each host.
    """

    def __init__(self, places: Sequence[Place], hosts: Sequence[Sequence[int]]) -> None:
        self.places = list(places)
        self._hosts: dict[_Kind, list[tuple[str, tuple[int, ...]]]] = {}
        # Not by name: containers on different machines may have the same.
        for ranks in hosts:
            here = [places[rank] for rank in ranks]
            threads, cores = (tuple(p.threads for p in here), tuple(p.cores for p in here))
            kind = _Kind(threads, cores, here[0].numa_nodes)
            self._hosts.setdefault(kind, []).append((here[0].host, tuple(ranks)))

    @classmethod
    def gather(cls, communicator: Communicator, threads: int) -> RankMap:
        """Return the map of a job; all ranks call it together, each with its number of threads."""
        return cls(communicator.gather(Place.of(communicator, threads)), communicator.hosts)

    def lines(self) -> list[str]:
        """Return who is where, a line for each kind of host."""
        lines = [self._describe(kind, hosts) for kind, hosts in self._hosts.items()]
        if len(lines) > TOLD:
            left = sum(map(len, list(self._hosts.values())[TOLD - 1 :]))
            lines[TOLD - 1 :] = [f"and {left} hosts of {len(lines) - TOLD + 1} other kinds"]
        return lines

    def _describe(self, kind: _Kind, hosts: list[tuple[str, tuple[int, ...]]]) -> str:
        each = " on each" if len(hosts) > 1 else ""
        ranks = format_cpu_list(rank for _, neighbours in hosts for rank in neighbours)
        many = len(kind.threads) > 1 or len(hosts) > 1
        count = f" ({len(kind.threads)}{each})" if each else ""
        return (
            f"{format_hosts(name for name, _ in hosts)}: rank{'s' * many} {ranks}{count}, "
            f"{_numbers(kind.threads, 'thread')} each on {_numbers(kind.cores, 'core')}"
            f" ({_plural(kind.numa_nodes, 'NUMA node')})"
        )

    def advice(self) -> list[str]:
        """Return what would make the job faster, a line for each.

        One rank for each NUMA node: threads of one rank on several nodes reach into each other's
        memory, and several ranks on one node send each other what its threads could share.
        """
        lines = []
        wrong = {
            kind: hosts
            for kind, hosts in self._hosts.items()
            if len(kind.threads) != kind.numa_nodes
        }
        if len(self.places) > 1 and wrong:
            names = [name for hosts in wrong.values() for name, _ in hosts]
            nodes = sorted({kind.numa_nodes for kind in wrong})
            lines.append(
                f"one rank for each NUMA node is the best start: {' or '.join(map(str, nodes))} on "
                f"{format_hosts(names)}"
            )
        threads = [place.threads for place in self.places]
        if max(threads) >= 2 * min(threads):
            few = [rank for rank, n in enumerate(threads) if n == min(threads)]
            lines.append(
                f"rank{'s' * (len(few) > 1)} {format_cpu_list(few)} with {min(threads)} of up to "
                f"{max(threads)} threads will be waited for: all get equal shares of a batch"
            )
        return lines


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + "s" * (count != 1)


def _numbers(numbers: Sequence[int], noun: str) -> str:
    """Write one number for all, or the range of them."""
    if min(numbers) == max(numbers):
        return _plural(numbers[0], noun)
    return f"{min(numbers)} to {max(numbers)} {noun}s"


def format_hosts(names: Iterable[str]) -> str:
    """Write names of hosts as Slurm does: those that differ in their last number together.

    Examples
    --------
    >>> format_hosts(["n0", "n1", "n2", "n7", "login"])
    'n[0-2,7],login'
    >>> format_hosts(["rack1-node009.local", "rack1-node010.local"])
    'rack1-node[009-010].local'
    """
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", name, re.DOTALL)
        prefix, number, suffix = found.groups() if found else (name, "", None)
        groups.setdefault((prefix, suffix), []).append(number)
    return ",".join(
        prefix if suffix is None else _format_group(prefix, suffix, numbers)
        for (prefix, suffix), numbers in groups.items()
    )


def _format_group(prefix: str, suffix: str, numbers: list[str]) -> str:
    # Zeros in front make n009 and n9 different hosts, and n009 and n100 a row.
    widths = {len(number) for number in numbers if number.startswith("0") and number != "0"}
    by_width: dict[int, set[int]] = {}
    for number in numbers:
        width = len(number) if len(number) in widths else 0
        by_width.setdefault(width, set()).add(int(number))
    written = []
    for width, group in by_width.items():
        runs = re.findall("([0-9]+)([-,]?)", format_cpu_list(group))
        written.append("".join(number.zfill(width) + sign for number, sign in runs))
    many = len(set(numbers)) > 1
    return f"{prefix}[{','.join(written)}]{suffix}" if many else f"{prefix}{written[0]}{suffix}"
