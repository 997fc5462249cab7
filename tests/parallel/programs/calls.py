"""Run by mpiexec: every call of a communicator, with data that differ on each rank."""

import sys

import numpy as np

from lowerconv.parallel import together, world

c = world()
assert c.ranks == int(sys.argv[1])
assert 0 <= c.rank < c.ranks
assert c.threads >= 1

for dtype in (np.float32, np.float64):
    array = np.arange(1001, dtype=dtype) + 1000 * c.rank
    c.sum_array(array)
    expected = c.ranks * np.arange(1001, dtype=dtype) + 1000 * sum(range(c.ranks))
    assert np.array_equal(array, expected)

empty = np.empty(0, np.float32)
c.sum_array(empty)

assert c.sum_numbers(c.rank, 0.5) == (sum(range(c.ranks)), 0.5 * c.ranks)
assert c.gather(f"rank {c.rank}") == [f"rank {r}" for r in range(c.ranks)]
assert c.broadcast(f"from {c.rank}") == "from 0"
array = np.full(7, c.rank, np.float64)
c.broadcast_array(array)
assert not array.any()
assert f"{c.ranks} ranks" in c.describe()


def fail_on_last():
    if c.rank == c.ranks - 1:
        raise KeyError("only here")
    return "fine"


try:
    together(c, fail_on_last)
except KeyError:
    assert c.rank == c.ranks - 1
except RuntimeError as error:
    assert str(error) == f"rank {c.ranks - 1}: 'only here'"
else:
    raise AssertionError("the failure of one rank did not reach this one")
print(f"rank {c.rank} done")
