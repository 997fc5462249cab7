"""Who moves messages while layers are computed."""

from __future__ import annotations

from lowerconv.parallel.communicator import Communicator
from lowerconv.parallel.engine import Engine
from lowerconv.parallel.options import AUTO, ParallelOptions


def make_engine(communicator: Communicator, options: ParallelOptions) -> Engine:
    """Return the engine that the options ask for; all ranks call it."""
    threaded = options.overlap in (AUTO, "thread")
    return communicator.engine(threaded=threaded, cpus=communicator.spare_cpus)
