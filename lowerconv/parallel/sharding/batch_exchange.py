"""How a batch crosses the border between data parallelism and model parallelism.

Before the border each rank has a share of the samples, after it all ranks look at the same ones:
a chunk of the batch.  Krizhevsky, "One weird trick for parallelizing convolutional neural networks"
(2014), section 4, has three schemes; with shares of 4 samples on 2 ranks::

                 rank 0 has a b c d, rank 1 has e f g h
    scheme a     chunk 0: a b c d e f g h                      everybody has everything
    scheme b     chunk 0: a b c d    chunk 1: e f g h          one rank after the other
    scheme c     chunk 0: a b e f    chunk 1: c d g h          a part of everybody's

While a chunk is computed, the next one is on its way, and the gradients of the one before it go
back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from math import prod

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.data.order import share
from lowerconv.parallel.comm.collectives import all_gather, broadcast, reduce, reduce_scatter
from lowerconv.parallel.comm.engine import Engine, Task
from lowerconv.parallel.options import ParallelOptions


class Chunk:
    """Samples that all ranks look at together.

    Parameters
    ----------
    rows : sequence of range
        Which of each rank's share.

    Attributes
    ----------
    places : list of slice
        Where those of each rank are in the chunk.
    size : int
    owner : int or None
        The rank that has all of its samples; None where several have some, or
        nobody has any.
    """

    def __init__(self, rows: Sequence[range]) -> None:
        self.rows = list(rows)
        ends = list(accumulate(map(len, self.rows), initial=0))
        self.places = [slice(a, b) for a, b in pairwise(ends)]
        self.size = ends[-1]
        having = [rank for rank, part in enumerate(self.rows) if len(part)]
        self.owner = having[0] if len(having) == 1 else None


def make_chunks(counts: Sequence[int], scheme: str, pieces: int) -> list[Chunk]:
    """Return the chunks of a batch, those without samples included.

    Parameters
    ----------
    counts : sequence of int
        Samples of each rank.
    scheme : str
        ``a``, ``b`` or ``c``.
    pieces : int
        How many chunks scheme c makes.
    """
    if scheme == "a":
        return [Chunk([range(n) for n in counts])]
    if scheme == "b":
        return [
            Chunk([range(n if rank == owner else 0) for rank, n in enumerate(counts)])
            for owner in range(len(counts))
        ]
    return [Chunk([share(n, piece, pieces) for n in counts]) for piece in range(pieces)]


def pieces_of(options: ParallelOptions, ranks: int) -> int:
    """Return into how many chunks a batch is cut.

    Raises
    ------
    ValueError
        Options of OWT that do not go together.
    """
    scheme = options.owt_scheme
    pieces = {"a": 1, "b": ranks, "c": options.owt_chunks or ranks}[scheme]
    if scheme != "c" and options.owt_chunks is not None:
        raise ValueError(
            f"owt_chunks: got {options.owt_chunks} with scheme {scheme!r}, expected it with scheme "
            "'c' only"
        )
    if options.owt_updates > pieces:
        raise ValueError(
            f"owt_updates: got {options.owt_updates}, expected at most {pieces}, the chunks of a "
            f"batch in scheme {scheme!r}"
        )
    return pieces


def chunks_of_step(
    counts: Sequence[int], scheme: str, pieces: int, updates: int
) -> list[tuple[Chunk, bool]]:
    """Return the chunks that have samples, and whether each is the last before an update.

    Parameters
    ----------
    counts, scheme, pieces
        As of `make_chunks`.
    updates : int
        Of a step, that share the chunks out evenly.
    """
    chunks = make_chunks(counts, scheme, pieces)
    # Beside each chunk is the number of its update.
    filled = [(c, n * updates // len(chunks)) for n, c in enumerate(chunks) if c.size]
    filled = filled or [(chunks[0], 0)]  # a batch of nothing
    following = [update for _, update in filled[1:]] + [updates]
    return [
        (chunk, update != next_update)
        for (chunk, update), next_update in zip(filled, following, strict=True)
    ]


@not_copied("make another `Trainer` or strategy in each process")
class BatchExchange:
    """Sends values of the border to all ranks, and their gradients back.

    Of each kind two are under way at most; the memory is used again and again.

    Parameters
    ----------
    engine : Engine
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._memory: dict[tuple[str, int], np.ndarray] = {}
        self._number = 0
        self._back: list[tuple[Task, np.ndarray, np.ndarray] | None] = [None, None]

    def buffer(self, kind: str, slot: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return memory that is the caller's until it asks for the same again."""
        nbytes = prod(shape) * dtype.itemsize
        memory = self._memory.get((kind, slot))
        if memory is None or memory.nbytes < nbytes:
            memory = self._memory[kind, slot] = np.empty(nbytes, np.uint8)
        return memory[:nbytes].view(dtype).reshape(shape)

    def all_gather(
        self, own: np.ndarray, chunk: Chunk, kind: str, slot: int
    ) -> tuple[Task, np.ndarray]:
        """Begin to send this rank's samples of a chunk to all ranks, and to receive theirs.

        Parameters
        ----------
        own : ndarray, (n, ...)
            This rank's share.
        chunk : Chunk
        kind : str
            What timelines show; each kind has memory of its own.
        slot : int
            0 or 1, in turns: which of the two buffers of its kind is filled; nobody may still be
            reading it.

        Returns
        -------
        task : Task
        whole : ndarray, (chunk.size, ...)
            That it fills.
        """
        engine = self.engine
        whole = self.buffer(kind, slot, (chunk.size, *own.shape[1:]), own.dtype)
        rows, place = chunk.rows[engine.rank], chunk.places[engine.rank]
        whole[place] = own[rows.start : rows.stop]
        owner = chunk.owner
        if owner is not None:
            task = engine.submit(partial(broadcast, array=whole, root=owner), kind, whole.nbytes)
        else:
            blocks = [whole[p] for p in chunk.places]
            task = engine.submit(partial(all_gather, blocks=blocks), kind, whole.nbytes)
        return task, whole

    def reduce_gradient(self, gradient: np.ndarray, chunk: Chunk, target: np.ndarray) -> None:
        """Begin to sum the ranks' gradients of a chunk, those of each sample at its owner.

        Parameters
        ----------
        gradient : ndarray, (chunk.size, ...)
        chunk : Chunk
        target : ndarray, (n, ...)
            The gradient of this rank's share, whose rows are complete after `finish`.
        """
        engine, slot = self.engine, self._number % 2
        self._number += 1
        self._end(slot)
        mine = self.buffer("gradient", slot, gradient.shape, gradient.dtype)
        mine[...] = gradient  # the next chunk's will be where it is
        rows, place = chunk.rows[engine.rank], chunk.places[engine.rank]
        out, summed = target[rows.start : rows.stop], mine[place]
        owner = chunk.owner
        if owner is not None:
            routine = partial(reduce, array=mine, root=owner)
            task = engine.submit(routine, "gradient", mine.nbytes)
        else:
            given = [mine[p] for p in chunk.places]
            routine = partial(reduce_scatter, given=given, out=summed)
            task = engine.submit(routine, "gradient", mine.nbytes)
        self._back[slot] = task, summed, out

    def finish(self) -> None:
        """Wait until all gradients have come."""
        for slot in (0, 1):
            self._end(slot)

    def _end(self, slot: int) -> None:
        under_way = self._back[slot]
        if under_way is not None:
            task, summed, out = under_way
            self.engine.wait(task)
            out[...] = summed
            self._back[slot] = None
