"""Collective operations, each a generator that yields the requests it waits for.

A non-blocking collective of MPI makes no progress while nobody is inside the library, and the
algorithm that the library picks is often not the best.  Written as generators the algorithms read
as if they blocked, and whoever has time moves them along: a thread of its own, the main thread
between two layers, or a caller that waits (`lowerconv.parallel.comm.engine`).

All of them leave the same bits on every rank.  With p ranks and n items a rank sends::

    ring, direct       2 n (p - 1) / p     the least there is; 2 (p - 1) steps
    halving_doubling   the same            2 log2 p steps; more where p is no power of two
    tree               n log2 p at most    2 log2 p steps of the whole array

Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH"
(2005); Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations"
(2009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from lowerconv.parallel.comm.link import LONGEST, Link, Requests

# None: look again at the next move; what is waited for is no message.
Routine = Iterator[Requests | None]
Allreduce = Callable[[Link, np.ndarray], Routine]


def parts(array: np.ndarray, count: int) -> list[np.ndarray]:
    """Return an array as `count` consecutive parts, whose sizes differ by one item at most."""
    bounds = [array.size * i // count for i in range(count + 1)]
    return [array[begin:end] for begin, end in pairwise(bounds)]


def ring(link: Link, array: np.ndarray) -> Routine:
    """Replace an array by its sum over all ranks, part by part around a ring, twice."""
    p, rank = link.ranks, link.rank
    if p == 1:
        return
    pieces = parts(array, p)
    right, left = (rank + 1) % p, (rank - 1) % p
    incoming = link.scratch(-(-array.size // p), array.dtype)
    for i in range(p - 1):  # after which rank r has the sum of part r + 1
        out, mine = pieces[(rank - i) % p], pieces[(rank - i - 1) % p]
        buffer = incoming[: mine.size]
        yield link.receive(buffer, left) + link.send(out, right)
        np.add(mine, buffer, out=mine)
    yield from all_gather(link, [pieces[(r + 1) % p] for r in range(p)])


def halving_doubling(link: Link, array: np.ndarray) -> Routine:
    """Replace an array by its sum: halves exchanged at growing distances, and back.

    Where the ranks are no power of two, some give their array to a neighbour first, and get the
    sum at the end.
    """
    p, rank = link.ranks, link.rank
    if p == 1:
        return
    power = 1 << (p.bit_length() - 1)
    extra = p - power
    incoming = link.scratch(array.size, array.dtype)
    if rank < 2 * extra:
        if rank % 2 == 0:
            yield link.send(array, rank + 1)
            yield link.receive(array, rank + 1)
            return
        yield link.receive(incoming, rank - 1)
        np.add(array, incoming, out=array)
    me = rank // 2 if rank < 2 * extra else rank - extra

    def real(number: int) -> int:
        return 2 * number + 1 if number < extra else number + extra

    steps: list[tuple[int, np.ndarray, np.ndarray]] = []  # partner, the half kept, the half given
    mine = array
    distance = power // 2
    while distance:
        partner = real(me ^ distance)
        low, high = mine[: mine.size // 2], mine[mine.size // 2 :]
        kept, given = (high, low) if me & distance else (low, high)
        buffer = incoming[: kept.size]
        yield link.receive(buffer, partner) + link.send(given, partner)
        np.add(kept, buffer, out=kept)
        steps.append((partner, kept, given))
        mine, distance = kept, distance // 2
    for partner, kept, given in reversed(steps):
        yield link.receive(given, partner) + link.send(kept, partner)
    if rank < 2 * extra:
        yield link.send(array, rank - 1)


def tree(link: Link, array: np.ndarray) -> Routine:
    """Replace an array by its sum: pairs, pairs of pairs, and back."""
    incoming = link.scratch(array.size if link.ranks > 1 else 0, array.dtype)
    distance = 1
    while distance < link.ranks:
        if link.rank & distance:
            yield link.send(array, link.rank - distance)
            break
        if link.rank + distance < link.ranks:
            yield link.receive(incoming, link.rank + distance)
            np.add(array, incoming, out=array)
        distance *= 2
    if link.rank:
        yield link.receive(array, link.rank - distance)
    while distance > 1:
        distance //= 2
        if link.rank + distance < link.ranks:
            yield link.send(array, link.rank + distance)


def direct(link: Link, array: np.ndarray) -> Routine:
    """Replace an array by its sum, each part added up by one rank in the order of the ranks.

    The order depends on nothing but the number of ranks: this is the deterministic one.
    """
    if link.ranks == 1:
        return
    pieces = parts(array, link.ranks)
    yield from reduce_scatter(link, pieces, pieces[link.rank])
    yield from all_gather(link, pieces)


def library(link: Link, array: np.ndarray) -> Routine:
    """Replace an array by its sum as the MPI library does it."""
    if link.ranks == 1:
        return
    from mpi4py import MPI  # not before ranks are known to be there

    link.sent.known = False
    most = LONGEST // array.itemsize
    pieces = [array[begin : begin + most] for begin in range(0, array.size, most)]
    # All at once: the library matches them with those of others by their order.
    yield [link.comm.Iallreduce(MPI.IN_PLACE, piece) for piece in pieces]


def two_level(link: Link, array: np.ndarray) -> Routine:
    """Replace an array by its sum: within each host, between hosts, and within hosts again.

    As many ranks of each host as the smallest one has own a part each: they add up what their
    neighbours have of it, sum it around a ring of hosts, and hand it back.
    """
    if link.ranks == 1:
        return
    host = next(h for h in link.hosts if link.rank in h)
    owners = min(map(len, link.hosts))
    pieces = parts(array, owners)
    near = link.among(host)
    own = pieces[near.rank] if near.rank < owners else array[:0]
    given = [pieces[r] if r < owners else array[:0] for r in range(near.ranks)]
    yield from reduce_scatter(near, given, own)
    if near.rank < owners:
        far = link.among([h[near.rank] for h in link.hosts])
        yield from ring(far, own)
    yield from all_gather(near, given)


ALLREDUCE: dict[str, Allreduce] = {
    "library": library,
    "ring": ring,
    "halving-doubling": halving_doubling,
    "tree": tree,
    "direct": direct,
    "two-level": two_level,
}


def reduce_scatter(link: Link, given: Sequence[np.ndarray], out: np.ndarray) -> Routine:
    """Write the sum of what all ranks have for this one, added in the order of the ranks.

    Parameters
    ----------
    link : Link
    given : sequence of ndarray
        What this rank contributes to each rank; all ranks have the same sizes.
    out : ndarray
        Of the size of ``given[link.rank]``, which it may be.
    """
    p, rank = link.ranks, link.rank
    incoming = {r: link.scratch(out.size, out.dtype) for r in range(p) if r != rank}
    # One neighbour at a time: several streams share a link badly (measured between 3 and 4 hosts
    # of 1 Gbit/s: two thirds of the rate of a single one).
    for i in range(1, p):
        to, source = (rank + i) % p, (rank - i) % p
        yield link.receive(incoming[source], source) + link.send(given[to], to)
    own = given[link.rank].reshape(-1)
    flat = out.reshape(-1)
    if link.rank:  # the sum begins with rank 0's, whoever adds
        first = incoming.pop(0)
        for r in range(1, link.ranks):
            np.add(first, own if r == link.rank else incoming[r], out=first)
        flat[:] = first
    else:
        flat[:] = own
        for r in range(1, link.ranks):
            np.add(flat, incoming[r], out=flat)


def all_gather(link: Link, blocks: Sequence[np.ndarray]) -> Routine:
    """Fill ``blocks[r]`` with what rank r has there, handed on around a ring."""
    p, rank = link.ranks, link.rank
    right, left = (rank + 1) % p, (rank - 1) % p
    for i in range(p - 1):
        out, mine = blocks[(rank - i) % p], blocks[(rank - i - 1) % p]
        yield link.receive(mine, left) + link.send(out, right)


def exchange(
    link: Link,
    sends: Sequence[tuple[int, np.ndarray]],
    receives: Sequence[tuple[int, np.ndarray]],
) -> Routine:
    """Send arrays to some ranks, and fill others with what some ranks send.

    Parameters
    ----------
    link : Link
    sends, receives : sequence of (int, ndarray)
        To or from which rank. Between two ranks the order is the same on both.
    """
    requests: Requests = []
    for rank, array in receives:
        requests += link.receive(array, rank)
    for rank, array in sends:
        requests += link.send(array, rank)
    yield requests


def broadcast(link: Link, array: np.ndarray, root: int) -> Routine:
    """Replace an array by that of the root: a part to each rank, and from each to all.

    Barnett et al., "Interprocessor collective communication library (InterCom)" (1994): the root
    sends its array about once, not once for each rank.
    """
    if link.ranks == 1:
        return
    pieces = parts(array.reshape(-1), link.ranks)
    others = [r for r in _others(link) if r != root]
    requests: Requests = []
    if link.rank == root:
        for piece in (pieces, [pieces[root]] * link.ranks):
            for r in others:
                requests += link.send(piece[r], r)
        yield requests
        return
    yield link.receive(pieces[link.rank], root)
    requests = link.receive(pieces[root], root)
    for r in others:
        requests += link.receive(pieces[r], r)
    for r in others:
        requests += link.send(pieces[link.rank], r)
    yield requests


def reduce(link: Link, array: np.ndarray, root: int) -> Routine:
    """Replace the root's array by the sum over all ranks; those of the others are used up."""
    if link.ranks == 1:
        return
    pieces = parts(array.reshape(-1), link.ranks)
    yield from reduce_scatter(link, pieces, pieces[link.rank])
    requests: Requests = []
    if link.rank == root:
        for r in _others(link):
            requests += link.receive(pieces[r], r)
    else:
        requests = link.send(pieces[link.rank], root)
    yield requests


def _others(link: Link) -> list[int]:
    """Return the other ranks, beginning with the next: not all send to the same one at once."""
    return [(link.rank + i) % link.ranks for i in range(1, link.ranks)]
