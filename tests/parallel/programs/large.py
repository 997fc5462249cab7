"""Run by mpiexec: sums of more than 2^31 elements; bytes, so that they fit into memory."""

import numpy as np
from mpi4py import MPI

from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.parallel.comm.engine import Engine

rank, ranks = MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
SIZE = (1 << 31) + 12345
engine = Engine(MPI.COMM_WORLD.Dup(), threaded=True)
array = np.empty(SIZE, np.uint8)
for name in ("ring", "library", "direct"):
    array[:] = rank + 1
    array[-1] = 7 * rank
    engine.run(lambda link, f=ALLREDUCE[name]: f(link, array), name)
    for begin in range(0, SIZE - 1, 1 << 28):
        assert (array[begin : min(begin + (1 << 28), SIZE - 1)] == sum(range(ranks + 1))).all()
    assert array[-1] == 7 * sum(range(ranks))
engine.close()
print("right")
