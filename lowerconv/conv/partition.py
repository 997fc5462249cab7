"""How panels and pieces are shared out: parts of (panel, piece) for every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil, inf

import numpy as np

from lowerconv.conv import costs

Part = tuple[int, int, int, int]  # panels from and to, pieces from and to
LESS = 1 - 1e-9  # what a sum may be less than the product that it is at least, by rounding


def share(count: int, worker: int, workers: int) -> tuple[int, int]:
    """Return the range of one worker."""
    return count * worker // workers, count * (worker + 1) // workers


def part_table(parts: Sequence[Sequence[Part]]) -> np.ndarray:
    """Return where each worker's parts begin, and behind that all parts, four numbers each."""
    flat: list[int] = []
    begins, first = [], len(parts) + 1
    for own in parts:
        begins.append(first + len(flat))
        for part in own:
            flat += part
    return np.array([*begins, first + len(flat), *flat], np.int64)


def grid(panels: int, pieces: int, across: int, along: int) -> list[list[Part]]:
    """Return one part for each of across x along workers."""
    return [
        [(*share(panels, i, across), *share(pieces, j, along))]
        for i in range(across)
        for j in range(along)
    ]


def grids(panels: int, pieces: int, threads: int) -> Iterator[tuple[int, int]]:
    """Yield the grids of workers that there may be, across panels and along pieces."""
    if threads > 1:
        yield 1, 1
    for across in range(1, min(threads, panels) + 1):
        along = min(threads // across, pieces)
        # Near a square of the possible splits is enough where there are many.
        if threads <= 32 or across * along > 0.8 * min(threads, panels * pieces):
            yield across, along


def strips(panels: int, pieces: int, workers: int) -> list[list[Part]]:
    """Return parts of equally many (panel, piece), which are taken panel by panel."""
    result = []
    for worker in range(workers):
        begin, end = share(panels * pieces, worker, workers)
        parts = []
        while begin < end:
            panel, piece = divmod(begin, pieces)
            if piece or end - begin < pieces:  # a part of one panel
                last = min(pieces, piece + end - begin)
                parts.append((panel, panel + 1, piece, last))
                begin += last - piece
            else:
                whole = (end - begin) // pieces
                parts.append((panel, panel + whole, 0, pieces))
                begin += whole * pieces
        result.append(parts)
    return result


def partitions(panels: int, pieces: int, threads: int) -> Iterator[list[list[Part]]]:
    """Yield the ways to share out panels and pieces."""
    for across, along in grids(panels, pieces, threads):
        yield grid(panels, pieces, across, along)
    if threads > 1:
        yield strips(panels, pieces, min(threads, panels * pieces))


def busiest(
    partition: list[list[Part]], at_once: int, tile: float, pack: float, pad: float
) -> float:
    """Return the time of the worker that has most to do.

    A part takes the time of its tiles, packs its panels, and pads its pieces for every
    `at_once` panels.
    """
    return max(
        sum(
            (panel1 - panel0) * (piece1 - piece0) * tile
            + (panel1 - panel0) * pack
            + (piece1 - piece0) * ceil((panel1 - panel0) / at_once) * pad
            for panel0, panel1, piece0, piece1 in parts
        )
        for parts in partition
    )


def by_node(
    panels: int,
    pieces: int,
    nodes: Sequence[int],
    cost: Callable[[list[list[Part]]], float],
) -> list[list[Part]]:
    """Return the partition in which each NUMA node computes a share of the pieces by itself.

    `nodes` has the node of each worker.  The workers of a node share its pieces in the way of the
    least `cost`.
    """
    result: list[list[Part]] = [[] for _ in nodes]
    begin = 0
    for node in dict.fromkeys(nodes):
        members = [worker for worker, other in enumerate(nodes) if other == node]
        first, _ = share(pieces, begin, len(nodes))
        begin += len(members)
        last, _ = share(pieces, begin, len(nodes))
        if last > first:
            mine = min(partitions(panels, last - first, len(members)), key=cost)
            for worker, parts in zip(members, mine, strict=False):
                result[worker] = [
                    (panel0, panel1, first + piece0, first + piece1)
                    for panel0, panel1, piece0, piece1 in parts
                ]
    return result


def best(
    panels: int,
    nodes: Sequence[int],
    at_once: int,
    pack: float,
    options: list[tuple[int, float, float]],
) -> tuple[int, list[list[Part]]]:
    """Return the number of the option, and the partition, that take the least time.

    An option is a number of pieces, and the times of the tiles and of the padding of a piece.  The
    time to start threads counts, where there are several.

    `nodes` has the NUMA node of each thread: where there are several, images stay on theirs if that
    costs no more than `costs.ELSEWHERE`.
    """

    def busy(number: int, partition: list[list[Part]]) -> float:
        _, tile, pad = options[number]
        return busiest(partition, at_once, tile, pack, pad)

    def time(choice: tuple[int, list[list[Part]]]) -> float:
        return busy(*choice) + (costs.LAUNCH if len(choice[1]) > 1 else 0.0)

    least = inf
    best_grid: tuple[int, tuple[int, int]] | None = None
    best_strips: tuple[int, list[list[Part]]] | None = None
    for number, (pieces, tile, pad) in enumerate(options):
        for across, along in grids(panels, pieces, len(nodes)):
            # The largest share of panels meets the largest share of pieces.
            n, m = -(-panels // across), -(-pieces // along)
            taken = n * m * tile + n * pack + m * ceil(n / at_once) * pad
            taken += costs.LAUNCH if across * along > 1 else 0.0
            if best_grid is None or taken < least:
                least, best_grid, best_strips = taken, (number, (across, along)), None
        workers = min(len(nodes), panels * pieces)
        tiles = -(-panels * pieces // workers) * tile + (costs.LAUNCH if workers > 1 else 0.0)
        if len(nodes) > 1 and tiles * LESS < least:
            partition = strips(panels, pieces, workers)
            taken = time((number, partition))
            if taken < least:
                least, best_strips = taken, (number, partition)
    assert best_grid is not None  # there is an option
    number, ways = best_grid
    found = best_strips or (number, grid(panels, options[number][0], *ways))
    if len(set(nodes)) > 1 and len(found[1]) > 1:
        local = [
            (number, by_node(panels, pieces, nodes, partial(busy, number)))
            for number, (pieces, _, _) in enumerate(options)
        ]
        nearest = min(local, key=time)
        if time(nearest) <= costs.ELSEWHERE * time(found):
            return nearest
    return found
