"""Run by mpiexec: every collective, with data that differ per rank, against a plain sum.

usage: collectives.py RANKS SEED
"""

import sys

import numpy as np
from mpi4py import MPI

from lowerconv.parallel.comm import collectives, link
from lowerconv.parallel.comm.engine import Engine

world = MPI.COMM_WORLD
rank, ranks = world.Get_rank(), world.Get_size()
assert ranks == int(sys.argv[1])
SEED = int(sys.argv[2])
SIZES = (0, 1, 2, 3, 5, 7, 64, 1000, 10_007)
#         two hosts as even as they can be, one host, and as many as ranks
HOSTS = [
    [h for h in (list(range(ranks // 2)), list(range(ranks // 2, ranks))) if h],
    [list(range(ranks))],
    None,
]


def everyone(size: int, dtype: type) -> np.ndarray:
    """Return what all ranks have, a row each."""
    rng = np.random.default_rng([SEED, size])
    return rng.standard_normal((ranks, size)).astype(dtype)


def check(engine: Engine, size: int, dtype: type) -> None:
    arrays = everyone(size, dtype)
    exact = arrays.astype(np.longdouble).sum(0)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    for name, allreduce in collectives.ALLREDUCE.items():
        mine = arrays[rank].copy()
        engine.run(lambda to, f=allreduce, a=mine: f(to, a), name)
        np.testing.assert_allclose(mine, exact.astype(dtype), **close, err_msg=name)
        assert len(set(world.allgather(mine.tobytes()))) == 1, f"{name}: bits differ"
        if name == "direct":  # adds in the order of the ranks
            ordered = arrays[0].copy()
            for other in arrays[1:]:
                ordered += other
            assert mine.tobytes() == ordered.tobytes()
    for root in range(ranks):
        mine = arrays[rank].copy()
        engine.run(lambda to, a=mine, r=root: collectives.broadcast(to, a, r), "broadcast")
        assert mine.tobytes() == arrays[root].tobytes()
        mine = arrays[rank].copy()
        engine.run(lambda to, a=mine, r=root: collectives.reduce(to, a, r), "reduce")
        if rank == root:
            np.testing.assert_allclose(mine, exact.astype(dtype), **close)
    # Blocks of different sizes, from and to each rank.
    given = [np.full(size + to, 100 * rank + to, dtype) for to in range(ranks)]
    total = np.zeros(size + rank, dtype)
    engine.run(lambda to: collectives.reduce_scatter(to, given, total), "reduce-scatter")
    assert (total == sum(100 * r + rank for r in range(ranks))).all()
    blocks = [np.full(size + r, rank if r == rank else -1, dtype) for r in range(ranks)]
    engine.run(lambda to: collectives.all_gather(to, blocks), "all-gather")
    assert all((block == r).all() for r, block in enumerate(blocks))


for threaded in (False, True):
    for hosts in HOSTS if threaded else HOSTS[:1]:
        engine = Engine(world.Dup(), threaded=threaded, hosts=hosts)
        for size in SIZES:
            check(engine, size, np.float32)
        check(engine, 101, np.float64)
        link.LONGEST = 64  # bytes: as if every message were too long for one
        collectives.LONGEST = 64
        check(engine, 1000, np.float32)
        link.LONGEST = collectives.LONGEST = 1 << 30
        engine.close()

# Many at a time, waited for in another order than that of their start.
engine = Engine(world.Dup(), threaded=True)
arrays = [np.full(5000, rank + i, np.float32) for i in range(40)]
tasks = [
    engine.submit(lambda to, a=a: collectives.ring(to, a), f"sum {i}", a.nbytes)
    for i, a in enumerate(arrays)
]
for i in np.random.default_rng(SEED + rank).permutation(40):
    engine.wait(tasks[i])
    assert (arrays[i] == sum(range(ranks)) + i * ranks).all()
    submitted, started, finished = tasks[i].times
    assert submitted <= started <= finished


def breaks(to):
    raise KeyError("here")
    yield


try:
    engine.run(breaks, "what fails")
except KeyError:
    pass
else:
    raise AssertionError("the error of a task was lost")
engine.close()
print(f"rank {rank} right")
