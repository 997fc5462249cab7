"""Parameter servers: what each keeps, and all ranks together."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.parallel import Communicator
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.parallel.strategies.server import ParameterServer
from lowerconv.parallel.strategies.server_shard import Shard

from ...long import chosen
from ..conftest import UPDATES

# Of four ranks one has nothing of a batch of three.
#         ranks, servers, overlap
EXACT = chosen(
    range(6),
    [
        (1, None, "auto"),
        (4, None, "thread"),
        (4, None, "layers"),
        (4, 3, "none"),
        (4, 2, "thread"),
        (4, 1, "layers"),
        (2, None, "thread"),
        (2, 1, "layers"),
        (3, None, "none"),
        (3, 2, "thread"),
        (5, None, "thread"),
        (5, 1, "auto"),
    ],
)
AGAIN = [(4, None, "thread"), (4, None, "layers")]
LATE = chosen(range(3), [(4, None), (4, 1), (4, 3), (2, None), (3, 1), (5, 3)])


def exact(servers: int | None, overlap: str) -> dict:
    return {"strategy": "server", "servers": servers, "staleness": 0, "overlap": overlap}


def late(servers: int | None) -> dict:
    return {"strategy": "server", "servers": servers, "staleness": 2}


RUNS = [
    (1, {}, "steps.py"),
    *[(ranks, exact(servers, overlap), "steps.py") for ranks, servers, overlap in EXACT],
    *[(ranks, late(servers), "steps.py") for ranks, servers in LATE],
]
SLOWED = chosen(
    [3, 4, 9],
    [
        (ranks, slow, late(servers) | {"overlap": overlap})
        for ranks, slow, servers in ((2, 0, None), (3, 1, None), (3, 0, 1), (3, 2, 2))
        for overlap in ("thread", "layers", "none")
    ],
)


def sgd(seed: int = 0, momentum: float = 0.0) -> nn.SGD:
    network = nn.Linear(5, 3)
    network.initialize(np.random.default_rng(seed))
    return nn.SGD(network, 0.1, momentum, 0.01)


def test_a_server_waits_for_all_gradients_and_adds_them():
    optimizer, reference = sgd(), sgd()
    before = optimizer.data.copy()
    shard = Shard(optimizer, 4, 11, 3, staleness=0)
    shard.gradients[:] = np.random.default_rng(1).standard_normal(shard.gradients.shape)
    for worker in (2, 0):
        shard.push(worker, 0.1)
        assert not shard.may_answer(worker)
        assert np.array_equal(optimizer.data, before)
    shard.push(1, 0.1)
    reference.grad[4:11] = shard.gradients.sum(0)
    reference.step()
    assert all(shard.may_answer(worker) for worker in range(3))
    np.testing.assert_allclose(shard.answer(0), reference.data[4:11], rtol=1e-6)
    assert np.array_equal(optimizer.data[:4], before[:4])
    assert np.array_equal(optimizer.data[11:], before[11:])
    assert shard.missing(1) == (0, 0)


def test_a_worker_ahead_is_held_back():
    shard = Shard(sgd(), 0, 18, 3, staleness=2)
    shard.gradients[:] = 0.0
    for step in range(3):
        shard.push(0, 0.1)
        assert shard.may_answer(0) == (step < 2)
    shard.push(1, 0.1)
    assert shard.missing(0) == ((0 + 2 + 3) / 3, 3)
    assert not shard.may_answer(0)  # worker 2 is still missing
    shard.push(2, 0.1)
    assert shard.may_answer(0)
    assert shard.missing(0) == (4 / 3, 2)
    assert shard.missing(2) == (0, 0)


def test_an_answer_stays_as_it_is_until_the_next_push():
    shard = Shard(sgd(), 0, 18, 2, staleness=1)
    shard.gradients[:] = 1.0
    shard.push(0, 0.1)
    answer = shard.answer(0)
    copy = answer.copy()
    shard.push(1, 0.1)
    assert np.array_equal(answer, copy)
    assert not np.array_equal(shard.weights, copy)


@pytest.mark.parametrize("make", [lambda n: nn.SGD(n, 0.1, 0.0, 0.1), lambda n: nn.Adam(n, 1e-3)])
def test_pushes_of_all_workers_move_weights_as_far_as_one_update(make):
    """With decay, and where the size of a step does not depend on the gradient's."""
    moved = []
    for workers, staleness in ((1, 0), (4, 1)):
        network = nn.Linear(5, 3)
        network.initialize(np.random.default_rng(0))
        optimizer = make(network)
        before = optimizer.data.copy()
        shard = Shard(optimizer, 0, 18, workers, staleness)
        for worker in range(workers):
            shard.gradients[worker] = np.linspace(1, 2, 18) / workers
            shard.push(worker, 1e-3)
        moved.append(optimizer.data - before)
    np.testing.assert_allclose(moved[1], moved[0], rtol=2e-3)


@pytest.mark.parametrize(
    ("options", "make", "message"),
    [
        ({"servers": 2}, sgd, "servers: got 2 with 1 ranks"),
        ({}, lambda: nn.LARS(nn.Linear(2, 2), 1.0), "optimizer: got LARS with strategy 'server'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, make, message):
    with pytest.raises(ValueError, match=message):
        ParameterServer(
            nn.Linear(5, 3),
            lambda network: make(),
            Communicator(),
            ParallelOptions("server", **options),
            (1, 1, 5),
        )


def test_they_are_known_by_name():
    assert STRATEGIES["server"] is ParameterServer


@pytest.mark.parametrize("size", UPDATES)
@pytest.mark.parametrize(("ranks", "servers", "overlap"), EXACT)
def test_synchronous_servers_are_data_parallelism(steps, ranks, size, servers, overlap):
    many, alone = steps(ranks, size, **exact(servers, overlap)), steps(1, size)
    np.testing.assert_allclose(many["losses"], alone["losses"], rtol=1e-9)
    np.testing.assert_allclose(many["weights"], alone["weights"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(many["test"], alone["test"], rtol=1e-9)
    assert np.array_equal(many["right"], alone["right"])


def test_synchronous_servers_make_the_same_bits_each_time(steps):
    first, second = (
        steps(ranks, "batch-7-last-of-3", **exact(servers, overlap))
        for ranks, servers, overlap in AGAIN
    )
    assert first["weights"].tobytes() == second["weights"].tobytes()


@pytest.mark.parametrize("size", UPDATES)
@pytest.mark.parametrize(("ranks", "servers"), LATE)
def test_after_an_epoch_all_ranks_have_the_same_weights(steps, ranks, size, servers):
    """Checked by the program."""
    many = steps(ranks, size, **late(servers))
    assert np.isfinite(many["losses"]).all()


@pytest.mark.parametrize(("ranks", "slow", "options"), SLOWED)
def test_a_slow_rank_is_waited_for_in_time(slowed, ranks, slow, options):
    slowed(ranks, slow, options)
