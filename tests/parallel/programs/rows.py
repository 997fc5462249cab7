"""Run by mpiexec: a network whose images are divided by rows is the network.

usage: rows.py RANKS BATCH SEED NETWORK...

Prints how many were divided: the first layer of some has too few rows for the ranks.
"""

import sys
import traceback
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from lowerconv import nn, set_num_threads
from lowerconv.nn.layer import Layer
from lowerconv.parallel import world
from lowerconv.parallel.sharding.row_split import RowNetwork
from tests.parallel.networks import make

ranks, batch, seed = map(int, sys.argv[1:4])
c = world()
assert c.ranks == ranks
engine = c.engine(threaded=seed % 2 == 1)
set_num_threads(1)
CLOSE = {"rtol": 1e-10, "atol": 1e-11}


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def summed(array):
    total = array.copy()
    c.sum_array(total)
    return total


def check(name):
    rng = np.random.default_rng(seed)
    whole, original = make(name), make(name)
    try:
        rows = RowNetwork(original, (1, *whole.image_shape), engine)
    except ValueError as error:
        assert "which no" in str(error), error
        return False
    assert list(rows.parameters()) == list(whole.parameters())
    assert list(rows.buffers()) == list(whole.buffers())
    assert ranks == 1 or rows.last
    for number, count in enumerate((batch, batch + 2, batch)):
        x = rng.standard_normal((count, *whole.image_shape))
        of_step = {"input_grad": number > 0, "runs": ((5, count),)}
        expected = as_tuple(whole.run(x, nn.Step(True, 7, number, **of_step)))
        got = as_tuple(rows.run(x, nn.Step(True, 7, number, communicator=c, **of_step)))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, **CLOSE, err_msg=f"{name} forward")
        gradients = [rng.standard_normal(result.shape) for result in expected]
        dx = whole.backward(*gradients)
        mine = rows.backward(*gradients)
        for own, parameter in whole.parameters().items():
            total = summed(rows.parameters()[own].grad)
            np.testing.assert_allclose(total, parameter.grad, **CLOSE, err_msg=f"{name} {own}")
        if dx is not None:
            np.testing.assert_allclose(summed(mine), dx, **CLOSE, err_msg=f"{name} input")
        for own, array in whole.buffers().items():
            np.testing.assert_allclose(rows.buffers()[own], array, **CLOSE, err_msg=own)
        for own, b in rows.parameters().items():
            a = whole.parameters()[own]
            a.data -= 0.05 * a.grad
            b.data[...] = a.data
        np.testing.assert_allclose(as_tuple(rows.run(x))[0], as_tuple(whole.run(x))[0], **CLOSE)
    for own, parameter in original.parameters().items():
        assert parameter is rows.parameters()[own]
    listed = {id(layer) for _, layer in rows.modules() if isinstance(layer, Layer)}
    (program, *_) = rows._use.own.execution.programs.values()
    assert all(id(layer) in listed for layer, _ in program.steps if layer.own_parameters())
    return True


divided = 0

for network in sys.argv[4:]:
    try:
        divided += check(network)
    except Exception:  # the others would wait for this rank
        print(f"rank {c.rank}, seed {seed}: {network}", file=sys.stderr)
        traceback.print_exc()
        c.abort()
engine.close()
print(f"right: {divided} divided")
