"""Run by mpiexec: gradients summed in half precision, with data that differ on each rank.

usage: compressed.py RANKS
"""

import sys

import numpy as np

from lowerconv.ops.half import expand_half, round_compensated
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.wire import Compressed

ranks = int(sys.argv[1])
if ranks > 1:
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    rank = world.Get_rank()
    assert world.Get_size() == ranks
    engines = [Engine(world.Dup(), threaded=threaded) for threaded in (False, True)]
else:
    rank, engines = 0, [Engine()]

STEPS = 200
SIZES = [0, 1, ranks - 1, ranks + 1, 63, 1001, 40_003]
PRECISION = {"bf16": 2.0**-8, "fp16": 2.0**-11}  # the largest relative error of one rounding
SMALLEST = {"bf16": 0.0, "fp16": 2.0**-25}  # half of a denormal's last bit


def gradient(size, seed, scale=1.0):
    """Return that of each rank."""
    rng = np.random.default_rng((seed, size))
    return (rng.standard_normal((ranks, size)) * scale).astype(np.float32)


def summed(compressed, mine, engine):
    array = mine.copy()
    engine.run(lambda link: compressed(link, array), "test")
    if ranks > 1:
        assert len(set(world.allgather(array.tobytes()))) == 1, "ranks have different sums"
    return array


def half(values, kind):
    """Round and expand: what is sent without feedback."""
    codes, result = np.empty(values.size, np.uint16), np.empty_like(values)
    round_compensated(values, np.zeros_like(values), codes, kind == "fp16")
    expand_half(codes, result, False, kind == "fp16")
    return result


def check_single(kind, size, engine):
    """One sum, from zero residuals: the result is known to the bit."""
    each = gradient(size, 1)
    array = summed(Compressed(kind, size, rank, ranks), each[rank], engine)
    if ranks == 1:
        assert np.array_equal(array, each[0])
        return
    total = half(each[0], kind)
    for part in each[1:]:
        total += half(part, kind)
    assert np.array_equal(array, half(total, kind))
    exact = each.astype(np.float64).sum(0)
    bound = PRECISION[kind] * np.abs(each).sum(0) + (ranks + 1) * SMALLEST[kind]
    assert (np.abs(array - exact) <= 2.01 * bound).all()
    assert size < 63 or not np.array_equal(array, exact.astype(np.float32))  # it was rounded


def check_many(kind, size, scale, engine):
    """The mean of many sums of the same is right to far better than the format."""
    each = gradient(size, 2, scale)
    compressed = Compressed(kind, size, rank, ranks)
    total = np.zeros(size)
    for _ in range(STEPS):
        total += summed(compressed, each[rank], engine)
    exact = each.astype(np.float64).sum(0)
    plain = half(np.sum([half(part, kind) for part in each], 0, dtype=np.float32), kind)
    error = np.abs(total / STEPS - exact).max()
    if ranks == 1:
        assert error == 0
        return
    assert error < 0.05 * np.abs(plain - exact).max(), (error, np.abs(plain - exact).max())
    # What is missing is what is left over, on all ranks.
    left = compressed.state()["residual"].astype(np.float64)
    world.Allreduce(MPI.IN_PLACE, left)
    left += np.concatenate(world.allgather(compressed.state()["residual_of_sum"]))
    largest = np.abs(each).sum(0).max()
    np.testing.assert_allclose(total + left, STEPS * exact, rtol=0, atol=1e-6 * STEPS * largest)


def check_state(kind, engine):
    """A run that goes on from what was kept is the run that was never stopped."""
    size = 1001
    mine = [gradient(size, 10 + step)[rank] for step in range(6)]
    whole = Compressed(kind, size, rank, ranks)
    expected = [summed(whole, values, engine) for values in mine]
    first, second = (Compressed(kind, size, rank, ranks) for _ in range(2))
    for values in mine[:3]:
        summed(first, values, engine)
    kept = {name: array.copy() for name, array in first.state().items()}
    assert sorted(kept) == (["residual", "residual_of_sum"] if ranks > 1 else [])
    for name, array in second.state().items():
        array[...] = kept[name]
    for values, result in zip(mine[3:], expected[3:], strict=True):
        assert np.array_equal(summed(second, values, engine), result)
    if ranks > 1:
        fresh = Compressed(kind, size, rank, ranks)
        assert not np.array_equal(summed(fresh, mine[3], engine), expected[3])


def check_not_finite(kind, engine):
    """What one rank has of infinite and NaN is seen by all, and gone in the next step."""
    size = 7 * ranks
    each = np.ones((ranks, size), np.float32)
    last = ranks - 1
    each[last, :3] = np.inf, -np.inf, np.nan
    each[last, -1] = 1e5  # too large for fp16
    each[:, -2] = 6e4  # what the ranks have is not, but the sum is
    compressed = Compressed(kind, size, rank, ranks)
    array = summed(compressed, each[rank], engine)
    assert array[0] == np.inf and array[1] == -np.inf and np.isnan(array[2])
    if ranks > 1:
        assert np.isinf(array[-2:]).all() == (kind == "fp16")
        after = summed(compressed, np.ones(size, np.float32), engine)
        assert np.isfinite(after).all()
        assert (after[:3] == ranks).all()


for engine in engines:
    for kind in ("bf16", "fp16"):
        for size in SIZES:
            check_single(kind, size, engine)
        check_state(kind, engine)
        check_not_finite(kind, engine)
        check_many(kind, 1001, 1.0, engine)
    # So small that fp16 alone sends zeros.
    check_many("fp16", ranks + 1, 1e-8, engine)
    engine.close()
print(f"rank {rank} right\n", end="", flush=True)
