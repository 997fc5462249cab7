"""Emulated steps send what real ones do; see test_bench_scaling.py. Usage: emulated.py ROOT"""

import sys

import numpy as np

sys.path.append(sys.argv[1])
from bench.emulated import Machine
from bench.scaling_steps import Contender
from lowerconv.parallel.comm.mpi_communicator import world
from lowerconv.parallel.options import ParallelOptions

world()


def check(strategy):
    """Compare what real steps, emulated ones and still ones send."""
    sent = {}
    for name, machine in (("real", None), ("emulated", Machine(1e6, 1e6))):
        options = ParallelOptions(strategy, allreduce="ring", bucket_mib=0.05)
        contender = Contender("cifar10_quick", options, 7, 3, machine)
        rank = contender.communicator.rank
        contender.turn(1)
        sent[name] = contender.turn(2)["sent"]
        (optimizer,) = contender.optimizers
        weights = optimizer.data.copy()
        velocity = optimizer.velocity.copy()
        if machine is None:
            sent["still"] = contender.still_turn(2)["sent"]
        optimizer.grad[:] = np.arange(optimizer.grad.size) % 100 + rank
        contender.step()
        contender.strategy.finish()
        # Nobody has computed gradients, but all ranks have added up what there was.
        expected = 3 * (np.arange(optimizer.grad.size) % 100) + 3
        assert np.array_equal(optimizer.grad, expected.astype(np.float32)), name
        assert np.array_equal(optimizer.data, weights)
        assert np.array_equal(optimizer.velocity, velocity)
        contender.close()
    assert sent["real"] == sent["emulated"] == sent["still"] > 0, sent
    # Around a ring each rank sends 2/3 of all gradients, twice; parts may differ by an item.
    return sent["real"] - 4 / 3 * optimizer.grad.nbytes


assert abs(check("data")) < 1000
assert check("spatial") > 10000  # halos, and rows that become samples
print("done")
