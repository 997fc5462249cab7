"""Ctrl-C at any moment leaves the process as it was: BLAS, CPUs, locks, threads, memory, files."""

import os
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import lowerconv as lc
from lowerconv import nn
from lowerconv.conv import plan_cache
from lowerconv.conv.wisdom import forget, recall, remember
from lowerconv.files import write_atomically
from lowerconv.machine.disk_cache import read_checked, write_checked
from lowerconv.nn.exchange import load_weights
from lowerconv.nn.init import undrawn
from lowerconv.nn.step import Step
from lowerconv.runtime import affinity
from lowerconv.runtime import team as teams
from lowerconv.runtime.uninterrupted import uninterrupted
from tests.surroundings import Flag, W, X, check_all, elsewhere, right, surroundings

from .interrupts import interrupts
from .long import LONG

MOST = None if LONG else 100  # of all moments, where what is done between them takes long
pytestmark = pytest.mark.usefixtures("watchdog")


@pytest.fixture(autouse=True)
def two_blas_threads():
    threads, policy = lc.get_num_threads(), lc.get_affinity()
    lc.set_num_threads(3)
    with threadpool_limits(limits=2, user_api="blas"):
        yield
    lc.set_num_threads(threads)
    lc.set_affinity(policy)


def test_what_an_interrupt_can_break_is_found():
    flag = Flag()
    left = []
    for _ in interrupts(flag.raise_for_a_while):
        left.append(flag.raised)
        flag.raised = False
    assert 0 < sum(left) < len(left)
    left.clear()
    for _ in interrupts(flag.acquire_and_release):
        left.append(flag.lock.locked())
        with suppress(RuntimeError):
            flag.lock.release()
    assert 0 < sum(left) < len(left)
    for _ in interrupts(flag.hold):
        assert not flag.lock.locked()


@pytest.mark.parametrize("algorithm", lc.algorithms())
def test_convolutions(algorithm):
    plans = [
        lc.plan_conv2d(X.shape, W.shape, op=op, algorithm=algorithm)
        for op in ("forward", "weight_grad")
    ]
    dy = plans[0](X, W)
    plans[1](dy, X)

    def convolve():
        plans[0](X, W)
        plans[1](dy, X)

    before = surroundings()
    for _ in interrupts(convolve, most=MOST):
        check_all(before)
        assert elsewhere(lambda: np.allclose(plans[0](X, W), 18))


@pytest.mark.parametrize("algorithm", ["pipelined", "fused", "winograd"])
def test_planning(algorithm):
    def plan():
        lc.conv2d(X, W, padding=1, algorithm=algorithm)

    plan()
    before = surroundings()
    for _ in interrupts(plan, most=300, prepare=plan_cache._cached_plan.cache_clear):
        check_all(before)
        assert np.allclose(lc.conv2d(X, W, padding=1, algorithm=algorithm)[:, :, 1:-1, 1:-1], 18)


@pytest.mark.parametrize("pause", [0, 0.002])
def test_starting_threads(monkeypatch, pause):
    # A thread that takes a while to begin is waited for.
    work = teams.Team._work

    def work_later(*arguments):
        time.sleep(pause)
        work(*arguments)

    monkeypatch.setattr(teams.Team, "_work", work_later)
    right()
    before = surroundings()
    for _ in interrupts(right, most=400, prepare=teams.end):
        check_all(before)


linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are bound nowhere")


@linux
@pytest.mark.parametrize(("first", "then"), [("none", "compact"), ("compact", "none")])
def test_binding(first, then):
    threads = min(2, len(affinity.topology().cores))
    lc.set_num_threads(threads)
    plans = {}

    def choose(policy):
        lc.set_affinity(policy)
        if policy not in plans:
            plans[policy] = lc.plan_conv2d(X.shape, W.shape, algorithm="direct")
        plans[policy](X, W)

    def crew_masks():
        crew = teams.team().started[: threads - 1]
        return [os.sched_getaffinity(thread.native_id) for thread in crew]

    choose(first)
    choose(then)
    before = surroundings()
    for _ in interrupts(lambda: choose(then), most=200, prepare=lambda: choose(first)):
        assert surroundings() == before
        known = affinity.places(threads)
        affinity._forget()
        assert affinity.places(threads) == known  # of the policy that there is
        assert right()
        own = os.sched_getaffinity(0)
        assert crew_masks() == (
            [own] * (threads - 1) if known is None else [{c} for c in known[1:]]
        )


@linux
def test_a_share_of_the_cores():
    own = os.sched_getaffinity(0)
    try:
        for _ in interrupts(
            lambda: affinity.set_share(own, spare=True),
            most=200,
            prepare=lambda: affinity.set_share(None),
        ):
            known, spare = affinity.topology().cpus, affinity._spare
            affinity._forget()
            assert affinity.topology().cpus == known
            assert spare not in known
    finally:
        affinity.set_share(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Python forks nowhere else")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_forks():
    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    fork()
    before = surroundings()
    # What runs at a fork has nobody to tell: Python prints the interrupt.
    for _ in interrupts(fork, most=MOST, may_be_lost=True):
        with suppress(ChildProcessError):
            os.waitpid(-1, 0)
        check_all(before)


def test_weights_are_drawn_again():
    def build():
        with undrawn():
            nn.Linear(3, 2)

    build()
    for _ in interrupts(build):
        assert nn.Linear(3, 2).weight.data.any()


def test_loading_weights():
    network = nn.Linear(3, 2)
    weights = {"weight": np.ones((2, 3), np.float64), "bias": np.ones(2, np.float64)}
    load_weights(network, weights)
    before = surroundings()
    for _ in interrupts(lambda: load_weights(network, weights)):
        assert surroundings() == before


@pytest.mark.parametrize("write", [write_atomically, write_checked])
def test_files_are_old_or_new_and_nothing_is_left(tmp_path, write):
    path = tmp_path / "file"

    def content():
        return read_checked(path) if write is write_checked else path.read_bytes()

    def make(data):
        write(path, data)

    for _ in interrupts(lambda: make(b"new"), prepare=lambda: make(b"old")):
        assert list(tmp_path.iterdir()) == [path]
        assert content() in (b"old", b"new")


def test_what_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path))

    def learn():
        remember("key", {"is": "new"})

    def begin_anew():
        forget()
        remember("key", {"is": "old"})

    begin_anew()
    learn()
    for _ in interrupts(learn, most=500, prepare=begin_anew):
        assert recall("key") in ({"is": "old"}, {"is": "new"})
        remember("other", {"is": "there"})  # nobody holds the file
        assert recall("other") == {"is": "there"}


@pytest.fixture
def network():
    rng = np.random.default_rng(3)
    made = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4)
    )
    for parameter in made.parameters().values():
        parameter.data[...] = rng.standard_normal(parameter.data.shape)
    return made


class Training:
    """Steps of a network on batches of some size, and what comes of them."""

    def __init__(self, network) -> None:
        self.network = network
        rng = np.random.default_rng(5)
        self.x = rng.standard_normal((5, 2, 6, 6)).astype(np.float32)
        self.dy = rng.standard_normal((5, 4)).astype(np.float32)

    def run(self, images=5):
        return self.network.run(self.x[:images], Step(training=True))

    def backward(self, images=5):
        self.network.backward(self.dy[:images])
        return [p.grad.copy() for p in self.network.parameters().values()]

    def both(self, images=5):
        return [self.run(images).copy(), *self.backward(images)]


def test_steps_of_a_network(network):
    training = Training(network)
    nn.SGD(network, 0.1)
    small, large = training.both(2), training.both(5)

    def begin_anew():
        network._forget()
        training.both(2)

    # More memory is needed, and all arrays move.
    for _ in interrupts(lambda: training.both(5), most=200, prepare=begin_anew):
        for images, expected in ((2, small), (5, large), (2, small)):
            assert all(map(np.array_equal, training.both(images), expected))


def test_gradients_of_a_run_that_was_interrupted(network):
    training = Training(network)
    nn.SGD(network, 0.1)
    expected = training.both()[1:]
    refused = 0
    for _ in interrupts(training.run, prepare=training.both):
        try:
            found = training.backward()
        except RuntimeError:
            refused += 1
        else:
            assert all(map(np.array_equal, found, expected))
    assert refused


@pytest.mark.parametrize(
    "make",
    [
        lambda network: nn.SGD(network, 0.1, momentum=0.9),
        lambda network: nn.Adam(network, 0.1),
        lambda network: nn.LARS(network, 0.1),
    ],
)
def test_a_step_of_an_optimizer_is_made_or_not(network, make):
    optimizer = make(network)
    training = Training(network)
    training.both()
    optimizer.step()
    arrays = [optimizer.data, *optimizer.state().values()]
    start, updates = [array.copy() for array in arrays], optimizer.updates

    def go_back():
        optimizer.updates = updates
        for array, kept in zip(arrays, start, strict=True):
            array[...] = kept

    optimizer.step()
    end = [array.copy() for array in arrays]
    made = set()
    for _ in interrupts(optimizer.step, prepare=go_back):
        now = all(map(np.array_equal, arrays, end))
        assert now or all(map(np.array_equal, arrays, start))
        # It counts from when it begins.
        assert optimizer.updates == updates + 1 if now else optimizer.updates - updates in (0, 1)
        made.add(now)
    assert made == {True, False}


def test_what_must_not_be_interrupted_ends_before_the_interrupt_is_told():
    done = []

    def work():
        time.sleep(0.001)
        done.append(1)
        time.sleep(0.001)
        done.append(2)

    def use():
        done.clear()
        uninterrupted(work)

    use()
    met = set()
    for _ in interrupts(use):
        met.add(tuple(done))
        done.clear()
    assert met == {(), (1, 2)}


def test_errors_of_what_is_not_interrupted(monkeypatch):
    def fail():
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        uninterrupted(fail)

    def refuse(*arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("lowerconv.runtime.uninterrupted.start_new_thread", refuse)
    with pytest.raises(ValueError, match="on purpose"):
        uninterrupted(fail)
    done = []
    uninterrupted(lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]
