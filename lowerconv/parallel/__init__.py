"""Training over several processes."""

from lowerconv.parallel.comm.communicator import Communicator, MPIError
from lowerconv.parallel.comm.mpi_communicator import world
from lowerconv.parallel.comm.together import together

__all__ = ["Communicator", "MPIError", "together", "world"]
