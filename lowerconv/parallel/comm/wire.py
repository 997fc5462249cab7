"""Gradients in half precision on the wire: an allreduce that sends half the bytes.

Each bucket is cut into pieces, one for each rank, and reduced in two stages.  Whoever rounds keeps
what rounding has left, and adds it to what it rounds in the next step::

    rank r   gradient + residual -> 16 bits, piece s of them to rank s, one rank after the other
    rank s   piece s of all ranks -> sum + residual of sum -> 16 bits, around a ring -> gradient
"""

from __future__ import annotations

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.ops.half import expand_half, round_compensated
from lowerconv.parallel.comm.collectives import Routine, parts
from lowerconv.parallel.comm.link import Link, Requests

KINDS = ("bf16", "fp16")


@not_copied("make another `Trainer` or strategy in each process")
class Compressed:
    """An allreduce of one bucket that sends bf16 or fp16, and loses nothing over many steps.

    All ranks end with the same bits.  Each sends ``2 (ranks - 1) / ranks * size`` items of two
    bytes, half of what a ring of float32 does, and sums are taken in float32 in the order of the
    ranks.  The result of one call is off by two roundings; the next one makes up for it, so that
    the sum over many calls is right [1]_.  There is a residual for each of the two [2]_.

    What is too large for fp16 becomes infinite and is so on all ranks: it is never cut off.

    Parameters
    ----------
    kind : "bf16" or "fp16"
        What is sent: bf16 has the range of float32 and 8 significant bits, fp16 has 11 of them
        from 6.1e-5 to 65504 and fewer below.
    size : int
        Of the bucket, in elements.
    rank, ranks : int
        This process among those that reduce.

    Raises
    ------
    ValueError
        `kind` is another.

    References
    ----------
    .. [1] F. Seide et al., "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel
       Distributed Training of Speech DNNs", Interspeech 2014: error feedback.
    .. [2] H. Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's
       Convergence Speed", ICML 2021, Algorithm 1: compensated where it is sent and where the sum
       is.
    """

    def __init__(self, kind: str, size: int, rank: int, ranks: int) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: {kind!r}; expected one of {', '.join(map(repr, KINDS))}")
        self._fp16 = kind == "fp16"
        self._size, self._rank, self._ranks = size, rank, ranks
        if ranks == 1:
            return
        self._residual = np.zeros(size, np.float32)
        self._residual_of_sum = np.zeros_like(parts(self._residual, ranks)[rank])

    def __call__(self, link: Link, array: np.ndarray) -> Routine:
        """Replace a bucket by its sum over all ranks.

        Parameters
        ----------
        link : Link
            To the ranks.
        array : ndarray of float32, (size,)
            Contiguous.  One rank leaves it as it is.

        Returns
        -------
        iterator of list of Request
            As of all collectives: to be waited for, before the next ones are asked for.

        Raises
        ------
        ValueError
            `array` or `link` are not what this object was made for.
        """
        right = array.dtype == np.float32 and array.shape == (self._size,)
        if not right or not array.flags.c_contiguous:
            raise ValueError(
                f"array: {array.dtype} of shape {array.shape}, strides {array.strides}; expected "
                f"contiguous float32 of shape ({self._size},)"
            )
        if (link.rank, link.ranks) != (self._rank, self._ranks):
            raise ValueError(
                f"link: rank {link.rank} of {link.ranks}; expected {self._rank} of {self._ranks}, "
                "whose residuals these are"
            )
        return iter(()) if self._ranks == 1 else self._reduce(link, array)

    def _reduce(self, link: Link, array: np.ndarray) -> Routine:
        pieces, residuals = parts(array, self._ranks), parts(self._residual, self._ranks)
        mine = pieces[self._rank]
        bits = link.scratch(self._size, np.uint16)
        sent = parts(bits, self._ranks)
        received = link.scratch(self._ranks * mine.size, np.uint16)
        received = received.reshape(self._ranks, mine.size)  # my piece, of each rank

        # One neighbour at a time, in both stages: streams to several ranks at once share a link
        # badly, and took a third longer between three and four hosts with 1 Gbit/s.
        p, rank = self._ranks, self._rank
        requests: Requests = []
        for i in range(1, p):
            to, source = (rank + i) % p, (rank - i) % p
            self._round(pieces[to], residuals[to], sent[to])  # while the last one is on its way
            yield requests
            requests = link.receive(received[source], source) + link.send(sent[to], to)
        self._round(mine, residuals[rank], received[rank])
        yield requests

        for r, part in enumerate(received):
            expand_half(part, mine, r > 0, self._fp16)
        self._round(mine, self._residual_of_sum, sent[rank])
        right, left = (rank + 1) % p, (rank - 1) % p
        for i in range(p - 1):
            out, incoming = sent[(rank - i) % p], sent[(rank - 1 - i) % p]
            yield link.receive(incoming, left) + link.send(out, right)
        expand_half(bits, array, False, self._fp16)

    def _round(self, values: np.ndarray, residual: np.ndarray, bits: np.ndarray) -> None:
        round_compensated(values, residual, bits, self._fp16)

    def state(self) -> dict[str, np.ndarray]:
        """Return what is left over: the arrays themselves, to be read and written, by name.

        Returns
        -------
        dict of str to ndarray
            ``residual`` (size,) of what this rank sends and ``residual_of_sum`` (its piece,), both
            float32 in units of the gradient; nothing where there is one rank.  They belong to this
            rank of so many: a run that goes on with another number begins with zeros.
        """
        if self._ranks == 1:
            return {}
        return {"residual": self._residual, "residual_of_sum": self._residual_of_sum}
