"""Run by mpiexec: train where one rank is slow, and check how far the others get ahead.

usage: slowed.py RUNS, each the slow rank and the options of `ParallelOptions`, as JSON
"""

import json
import sys
import time

import numpy as np

from lowerconv import nn, set_num_threads
from lowerconv.nn.step import Step
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.parallel.strategies.strategy import Work

STEPS, SLEEP = 12, 0.08

communicator = world()
set_num_threads(1)
rank, ranks = communicator.rank, communicator.ranks


def check(slow: int, options: ParallelOptions) -> None:
    rng = np.random.default_rng(3)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    network.initialize(rng)
    strategy = STRATEGIES[options.strategy](
        network, lambda network: nn.SGD(network, 0.01, 0.9), communicator, options, (1, 8, 8)
    )
    strategy.start()
    # A server that is asleep answers nobody, unless it has a thread that does.
    servers = 0 if options.strategy == "async" else options.servers or ranks
    ahead = options.staleness > 0 and (options.overlap == "thread" or slow >= servers)
    own = np.random.default_rng(rank)
    begins, ends = [], []
    for epoch in range(2):
        for step in range(STEPS):
            images = own.standard_normal((2, 1, 8, 8)).astype(np.float32)
            labels = own.integers(0, 5, 2)
            begins.append(time.monotonic())
            if rank == slow:
                time.sleep(SLEEP)
            number = epoch * STEPS + step
            strategy.train(Work(images, labels, 2 * ranks, 2 * ranks, Step(True, 0, number), 0.01))
            ends.append(time.monotonic())
        strategy.finish()
        metrics = strategy.metrics()
        assert strategy.optimizer.lr == 0.01
        assert 0 <= metrics["staleness_mean"] <= metrics["staleness_max"] <= options.staleness, (
            metrics
        )
        assert metrics["staleness_max"] > 0 or not ahead, metrics
        weights = b"".join(p.data.tobytes() for p in network.parameters().values())
        assert len(set(communicator.gather(weights))) == 1, "weights differ between ranks"

    begins, ends = (np.array(communicator.gather(times)) for times in (begins, ends))
    for epoch in range(2):
        began, ended = (t[:, epoch * STEPS : (epoch + 1) * STEPS] for t in (begins, ends))
        # A rank's step t + 1 begins when step t has ended. That of the slow one pushes its gradient
        # at the end of its sleep: before it, nobody may be more than `staleness` steps ahead.
        pushed = began[slow] + SLEEP
        late = options.staleness + 1
        # async waits within a step, server at its end: both before the layers are computed.
        for other in range(ranks):
            assert (ended[other, late:] > pushed[: STEPS - late]).all(), f"rank {other} is ahead"
        if ahead:
            fast = (slow + 1) % ranks
            assert (began[fast, 1:] < pushed[: STEPS - 1]).any(), "nobody gets ahead"
    assert all("staleness" in line for line in strategy.report())
    strategy.close()


for number, (slow, options) in enumerate(json.loads(sys.argv[1])):
    check(slow, ParallelOptions(**options))
    print(f"run {number} is right", flush=True)
