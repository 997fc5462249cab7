"""How panels and pieces are shared out: rectangles of (panel, piece) for every worker."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

LAUNCH = 50e3  # to start threads and wait for them, in multiply-adds of one vector: microseconds
Rectangle = tuple[int, int, int, int]  # panels from and to, pieces from and to


def share(count: int, worker: int, workers: int) -> tuple[int, int]:
    """Return the range of one worker."""
    return count * worker // workers, count * (worker + 1) // workers


def grid(panels: int, pieces: int, across: int, along: int) -> list[list[Rectangle]]:
    """Return one rectangle for each of across x along workers."""
    return [
        [(*share(panels, i, across), *share(pieces, j, along))]
        for i in range(across)
        for j in range(along)
    ]


def ribbon(panels: int, pieces: int, workers: int) -> list[list[Rectangle]]:
    """Return equal lengths of the ribbon of all pieces of panel 0, then of panel 1, and so on."""
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


def partitions(panels: int, pieces: int, threads: int) -> Iterator[list[list[Rectangle]]]:
    """Yield the ways to share out panels and pieces."""
    if threads > 1:
        yield grid(panels, pieces, 1, 1)
    for across in range(1, min(threads, panels) + 1):
        along = min(threads // across, pieces)
        # Near a square of the possible splits is enough where there are many.
        if threads <= 32 or across * along > 0.8 * min(threads, panels * pieces):
            yield grid(panels, pieces, across, along)
    if threads > 1:
        yield ribbon(panels, pieces, min(threads, panels * pieces))


def busiest(
    partition: list[list[Rectangle]], at_once: int, tile: float, pack: float, lower: float
) -> float:
    """Return the time of the worker that has most to do.

    A rectangle takes the time of its tiles, packs its panels, and lowers its pieces for every
    `at_once` panels.
    """
    return max(
        sum(
            (p1 - p0) * (q1 - q0) * tile
            + (p1 - p0) * pack
            + (q1 - q0) * ceil((p1 - p0) / at_once) * lower
            for p0, p1, q0, q1 in rectangles
        )
        for rectangles in partition
    )


def best(
    panels: int,
    threads: int,
    at_once: int,
    pack: float,
    options: list[tuple[int, float, float]],
) -> tuple[int, list[list[Rectangle]]]:
    """Return which option, and which partition, ends first, the start of threads counted.

    Options are numbers of pieces with the times of a piece: of its tiles, and of its lowering.
    """

    def time(choice: tuple[int, list[list[Rectangle]]]) -> float:
        number, partition = choice
        _, tile, lower = options[number]
        start = LAUNCH if len(partition) > 1 else 0.0
        return start + busiest(partition, at_once, tile, pack, lower)

    choices = [
        (number, partition)
        for number, (pieces, _, _) in enumerate(options)
        for partition in partitions(panels, pieces, threads)
    ]
    return min(choices, key=time)
