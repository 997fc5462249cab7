"""Who moves messages while layers are computed."""

from __future__ import annotations

from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.options import AUTO, ParallelOptions


def make_engine(communicator: Communicator, options: ParallelOptions) -> Engine:
    """Return the engine that the options ask for; all ranks call it.

    By default a thread, where it has a core of its own, or where messages go between hosts: TCP
    moves little while nobody looks. Within a host it would only take turns with the layers
    (measured: 2% of a step on ranks of one core, where looking between layers costs nothing).
    """
    threaded = options.overlap == "thread" or (
        options.overlap == AUTO
        and (communicator.spare_cpus is not None or len(communicator.hosts) > 1)
    )
    return communicator.engine(threaded=threaded, cpus=communicator.spare_cpus)
