"""Going on without the ranks that have died.

MPI's fault mitigation tells the others: their messages fail. Each of them keeps a copy of what it
had when its current update began, as that update may be half applied. The survivors revoke the
communicator, so that nobody waits in vain, shrink it, and compare how far they are; whoever has
made the most updates gives all others its state::

    rank 0   update 17 | 18 begun, copy of 17          -> gives its copy
    rank 1   update 17, died
    rank 2   update 16 | 17 begun, copy of 16          -> takes it

At most the update under way is lost, and computed again.

Bland et al., "Post-failure recovery of MPI communication capability: design and rationale" (2013):
revoke, shrink and agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.parallel.comm.communicator import Communicator


@not_copied("make another `Trainer` or strategy in each process")
class Snapshot:
    """A copy of the arrays that updates change, and of where the run was.

    Parameters
    ----------
    arrays : dict of str to ndarray
        The arrays themselves.

    Attributes
    ----------
    progress : (int, int)
        Epochs, and updates of the epoch that has begun, that are done.
    facts : object
        What else there was.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self._copies = {name: np.empty_like(array) for name, array in arrays.items()}
        self.progress = (-1, -1)
        self.facts: Any = None

    def take(self, progress: tuple[int, int], facts: Any) -> None:
        """Copy everything."""
        for name, array in self.arrays.items():
            self._copies[name][...] = array
        self.progress, self.facts = progress, facts

    def restore(self, names: set[str] | None = None) -> None:
        """Give the arrays their values back, all or some."""
        for name, array in self.arrays.items():
            if names is None or name in names:
                array[...] = self._copies[name]


def recover(
    communicator: Communicator,
    snapshot: Snapshot,
    own: set[str],
    reconnect: Callable[[], None],
) -> list[int]:
    """Bring the survivors together, all in the state of the one that is furthest.

    Ranks that die meanwhile are left behind, too.

    Parameters
    ----------
    communicator : Communicator
        Gets another number of ranks.
    snapshot : Snapshot
        Is restored, or becomes that of the rank that is furthest.
    own : set of str
        Arrays that differ between ranks: a rank that is as far as the furthest keeps them.
    reconnect : callable
        Makes all that sends messages anew; all ranks call it together.

    Returns
    -------
    list of int
        Ranks that have died, as they were numbered before.
    """
    me, ranks = communicator.rank, communicator.ranks
    while True:
        communicator.shrink()
        try:
            communicator.reconnect()
            lost = sorted(set(range(ranks)) - set(communicator.gather(me)))
            reached = communicator.gather(snapshot.progress)
            furthest = reached.index(max(reached))
            snapshot.restore()
            for array in snapshot.arrays.values():
                communicator.broadcast_array(array, furthest)
            if snapshot.progress == reached[furthest]:
                snapshot.restore(own)
            mine = communicator.rank == furthest
            facts = communicator.gather(snapshot.facts if mine else None)[furthest]
            reconnect()
            well = True
        except Exception as error:
            if not communicator.has_lost_ranks(error):
                raise
            communicator.revoke()
            well = False
        if communicator.agree(well):
            snapshot.take(reached[furthest], facts)
            return lost
