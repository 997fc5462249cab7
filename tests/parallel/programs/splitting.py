"""Run by mpiexec: a network of which every rank computes a part is the network.

usage: splitting.py RANKS BATCH INPUT_PARTIAL SEED NETWORK...
"""

import sys
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from lowerconv import nn, set_num_threads
from lowerconv.parallel import world
from lowerconv.parallel.sharding.split import SplitNetwork
from tests.parallel.networks import make

ranks, batch, input_partial, seed = map(int, sys.argv[1:5])
c = world()
assert c.ranks == ranks
engine = c.engine(threaded=seed % 2 == 1)
set_num_threads(1)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def check(name):
    rng = np.random.default_rng(seed)
    whole, original = make(name), make(name)
    split = SplitNetwork(original, (1, *whole.image_shape), engine, input_partial=input_partial)
    assert list(split.parameters()) == list(whole.parameters())
    assert list(split.buffers()) == list(whole.buffers())
    if ranks > 1:
        assert split.shardings
        kept = {id(p) for p in split.parameters().values()}
        given = [p for p in original.parameters().values() if id(p) not in kept]
        assert given and not any(p.data.flags.writeable for p in given)
    close = {"rtol": 1e-9, "atol": 1e-11}
    for number, count in enumerate((batch, batch + 2, batch)):
        x = rng.standard_normal((count, *whole.image_shape))
        step = nn.Step(True, 7, number, input_grad=number > 0, runs=((5, count),))
        expected = as_tuple(whole.run(x, step))
        got = as_tuple(split.run(x, step))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, **close)
        gradients = [rng.standard_normal(result.shape) for result in expected]
        dx = whole.backward(*gradients)
        mine = split.backward(*gradients)
        if dx is not None:
            mine = mine.copy()
            if input_partial:
                c.sum_array(mine)
            np.testing.assert_allclose(mine, dx, **close)
        buffers = whole.buffers()
        parameters = {n: p.grad for n, p in whole.parameters().items()}
        shards = {n: p.grad for n, p in split.parameters().items()} | split.buffers()
        for own, array in (parameters | buffers).items():
            full = split.whole(own, shards[own])
            np.testing.assert_allclose(full, array, **close, err_msg=f"{name} {own}")
            np.testing.assert_array_equal(split.shard(own, full), shards[own])
        for a, b in zip(whole.parameters().values(), split.parameters().values(), strict=True):
            a.data -= 0.05 * a.grad
            b.data -= 0.05 * b.grad
        np.testing.assert_allclose(split.run(x), whole.run(x), **close)
    split.join()
    for own, parameter in original.parameters().items():
        np.testing.assert_allclose(parameter.data, whole.parameters()[own].data, **close)
    np.testing.assert_allclose(original.run(x), whole.run(x), **close)


for network in sys.argv[5:]:
    try:
        check(network)
    except Exception:  # the others would wait for this rank
        print(f"rank {c.rank}, seed {seed}: {network}", file=sys.stderr)
        traceback.print_exc()
        c.abort()
engine.close()
print("right")
