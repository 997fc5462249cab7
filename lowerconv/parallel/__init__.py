"""Training over several processes."""

from lowerconv.parallel.comm.communicator import Communicator, MPIError, together, world

__all__ = ["Communicator", "MPIError", "together", "world"]
