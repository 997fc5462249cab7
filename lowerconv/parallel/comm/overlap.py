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
    spare = communicator.spare_cpus
    threaded = has_thread(options, spare is not None, len(communicator.hosts))
    return communicator.engine(threaded=threaded, cpus=spare)


def has_thread(options: ParallelOptions, spare: bool, hosts: int) -> bool:
    """Return whether a thread moves messages, with a core of its own (`spare`) or without."""
    return options.overlap == "thread" or (options.overlap == AUTO and (spare or hosts > 1))
