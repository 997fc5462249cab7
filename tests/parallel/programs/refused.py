"""Run by mpiexec: on rank 1 the system starts no thread of a name; all ranks go on alike.

usage: refused.py NAME
"""

import sys

import numpy as np

from lowerconv.machine.mpi import launched_rank
from lowerconv.parallel import world
from lowerconv.parallel.comm.collectives import ring
from lowerconv.parallel.comm.communicator import MPIError
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.options import ParallelOptions
from lowerconv.runtime import native

name, start = sys.argv[1], native.start


def refusing(thread):
    if thread.name == name and launched_rank() == 1:
        raise RuntimeError("can't start new thread")
    start(thread)


native.start = refusing
c = world()
engine = make_engine(c, ParallelOptions(overlap="thread"))
communicates, answers = name != "lowerconv-communication", name != "lowerconv-stall"
assert c.gather(engine.threaded) == [communicates] * c.ranks
assert c.gather(c.patience is not None) == [answers] * c.ranks
try:
    c.set_timeout(5.0)
    assert answers
except MPIError as error:
    assert not answers and "ulimit -u" in str(error)
array = np.arange(100_000, dtype=np.float32) * (c.rank + 1)
engine.run(lambda link: ring(link, array), "a sum", array.nbytes)
assert np.array_equal(array, np.arange(100_000, dtype=np.float32) * sum(range(1, c.ranks + 1)))
engine.close()
print(f"rank {c.rank} right")
