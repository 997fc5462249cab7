"""Networks that several Python threads use: every answer is the caller's own."""

import copy
import gc
import os
import sys
import threading
import weakref

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn
from lowerconv.nn import exchange
from lowerconv.runtime.threads import parallel_region
from tests.nn.servers import (
    CALLS,
    NETWORKS,
    STEP,
    THREADS,
    WATCHED,
    Trainers,
    at_once,
    convolutional,
    dense,
    in_a_thread,
)

pytestmark = WATCHED
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="Python forks nowhere else")


@pytest.fixture(autouse=True)
def often():
    """Have threads interrupt each other as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def inputs(shape, count=THREADS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for _ in range(count)]


# --- inference ---


@pytest.mark.parametrize("trainers", [0, 2], ids=["alone", "beside training"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_answer_is_the_callers_own(name, trainers):
    """Called, compiled and run, 600 calls on each of 8 threads, or as LOWERCONV_CALLS says."""
    make, shape = NETWORKS[name]
    network = make()
    twin = copy.deepcopy(network)  # the network itself is fresh when the threads come
    infer = network.compile(shape)
    xs = inputs(shape)
    expected = [twin(x) for x in xs]
    compiled = [twin.compile(shape)(x) for x in xs]
    wrong = []

    def work(x, right, right_compiled):
        kept = []
        for call in range(CALLS):
            if call % 5 == 4:
                kept.append((network.run(x).copy(), right))
            elif call % 2:
                kept.append((infer(x), right_compiled))
            else:
                kept.append((network(x), right))
            if len(kept) == 4:  # not before others have had their turns
                wrong.extend(y for y, own in kept if not np.array_equal(y, own))
                kept.clear()

    with Trainers(trainers):
        raised = at_once(
            lambda x=x, y=y, z=z: work(x, y, z)
            for x, y, z in zip(xs, expected, compiled, strict=True)
        )
    assert not raised
    assert not wrong


def test_the_first_calls_come_together():
    for turn in range(20):
        network = convolutional()
        xs = inputs((1 + turn % 3, 2, 6, 6), 4, turn)
        expected = [copy.deepcopy(network)(x) for x in xs]
        found = [None] * 4

        def call(i, network=network, xs=xs, found=found):
            found[i] = network(xs[i])

        assert not at_once(lambda i=i: call(i) for i in range(4))
        assert all(map(np.array_equal, found, expected))


def test_a_view_of_one_thread_stays_when_others_come():
    network, (x, other) = convolutional(), inputs((2, 2, 6, 6), 2)
    infer = network.compile(x.shape)
    view = network.run(x)
    right = view.copy()
    in_a_thread(lambda: network.run(other).copy())
    in_a_thread(lambda: network.run(other, STEP).copy())
    in_a_thread(lambda: network(other))
    assert np.array_equal(view, right)
    network(other)
    infer(other)
    assert np.array_equal(view, right)
    assert not np.array_equal(network.run(other), right)


def test_results_of_a_compiled_network_stay():
    network, (x, other) = dense(), inputs((2, 3), 2)
    infer = network.compile(x.shape)
    first = infer(x)
    right = first.copy()
    infer(other)
    assert np.array_equal(first, right)


def test_answers_do_not_disturb_a_step_of_training():
    network, (x, other) = convolutional(), inputs((2, 2, 6, 6), 2)
    twin = copy.deepcopy(network)
    dy = np.ones_like(twin.run(x, STEP))
    twin.backward(dy)
    network.run(x, STEP)
    network(other)
    in_a_thread(lambda: network(other))
    in_a_thread(lambda: network.run(other))
    network.memory_report(other.shape)
    network.backward(dy)
    for name, parameter in network.parameters().items():
        assert np.array_equal(parameter.grad, twin.parameters()[name].grad), name


def test_what_a_thread_has_of_its_own_goes_with_it():
    network = dense()
    x = np.ones((2, 3), np.float32)
    network.run(x)

    def run():
        network.run(x)
        return weakref.ref(network._use.own.execution)

    found = in_a_thread(run)
    gc.collect()
    assert found() is None


def test_settings_change_in_the_middle():
    network, xs = convolutional(), inputs((2, 2, 6, 6), 3)
    infer, stop, wrong = network.compile(xs[0].shape), threading.Event(), []
    expected, compiled = [network(x) for x in xs], [infer(x) for x in xs]
    threads, policy = lc.get_num_threads(), lc.get_affinity()

    def call(i):
        while not stop.is_set():
            same = np.array_equal(network(xs[i]), expected[i])
            if not (same and np.array_equal(infer(xs[i]), compiled[i])):
                wrong.append(i)

    def change():
        try:
            for turn in range(30):
                lc.set_num_threads(1 + turn % 3)
                lc.set_affinity(("none", "auto")[turn % 2])
                network.memory_report((1 + turn, 2, 6, 6))
        finally:
            stop.set()

    try:
        assert not at_once([change, *(lambda i=i: call(i) for i in range(3))])
    finally:
        lc.set_num_threads(threads)
        lc.set_affinity(policy)
    assert not wrong


# --- a thread that is inside already ---


@pytest.mark.parametrize("way", ["call", "run", "train"])
def test_a_network_inside_itself_is_refused(way):
    network, x = convolutional(), np.ones((2, 2, 6, 6), np.float32)
    use = {
        "call": lambda: network(x),
        "run": lambda: network.run(x),
        "train": lambda: network.run(x, STEP),
    }[way]
    right, caught = use().copy(), []

    def again(layer, frame, phase):
        with pytest.raises(RuntimeError, match="inside") as error:
            use()
        caught.append(str(error.value))

    handle = network.register_watch(again)
    use()
    handle.remove()
    assert len(caught) >= 5
    if way != "train":
        assert np.array_equal(use(), right)


def test_a_part_is_not_trained_inside_the_whole():
    network, x = dense(), np.ones((2, 3), np.float32)

    def part(layer, frame, phase):
        with pytest.raises(RuntimeError, match="inside a training step"):
            network.children()["2"].run(np.ones((2, 5), np.float32), STEP)

    network.register_watch(part)
    y = network.run(x, STEP)
    network.backward(y)


def test_a_call_inside_a_convolution_does_not_wait_for_who_waits_for_that():
    network, x = dense(), np.ones((2, 3), np.float32)
    network(x)
    with parallel_region(1):  # as a signal's handler may find it
        thread = threading.Thread(target=network, args=[x], daemon=True)
        thread.start()
        while free(network):
            pass
        with pytest.raises(RuntimeError, match="inside a convolution"):
            network(x)
    thread.join(100)
    assert not thread.is_alive()


def free(network) -> bool:
    """Return whether no thread has its turn at a network."""
    lock = network._use.mutex.hold()._lock
    entered = lock.enter(0.001)
    if entered:
        lock.inside.release()
    return entered


# --- weights that change ---


def test_answers_are_by_the_old_weights_or_by_the_new(tmp_path):
    network, x = convolutional(), inputs((2, 2, 6, 6), 1)[0]
    files, answers = [], []
    for seed in range(2):
        network.initialize(np.random.default_rng(seed))
        files.append(tmp_path / f"{seed}.safetensors")
        network.save(files[-1])
        answers.append(network(x))
    stop, wrong = threading.Event(), []

    def call():
        while not stop.is_set():
            y = network(x)
            if not any(np.array_equal(y, right) for right in answers):
                wrong.append(y)

    def change():
        try:
            for turn in range(100):
                network.load(files[turn % 2])
        finally:
            stop.set()

    assert not at_once([change, call, call])
    assert not wrong


def test_what_is_saved_is_whole_though_a_thread_trains(tmp_path, monkeypatch):
    network, checksum = dense(), exchange._checksum
    before = {name: p.data.copy() for name, p in network.parameters().items()}

    def while_training(tensors):
        found = checksum(tensors)
        for parameter in network.parameters().values():
            parameter.data += 1  # as a thread may, at any moment
        return found

    monkeypatch.setattr(exchange, "_checksum", while_training)
    network.save(tmp_path / "weights.safetensors")
    monkeypatch.undo()
    network.load(tmp_path / "weights.safetensors")
    for name, parameter in network.parameters().items():
        assert np.array_equal(parameter.data, before[name])


class Slow:
    """Lets another thread come while an attribute is set."""

    def __setattr__(self, name, value):
        if name == "head" and hasattr(self, name):
            in_a_thread(lambda: self(np.ones((1, 3), np.float32)))
        super().__setattr__(name, value)


class Headed(nn.Module, Slow):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(x)


def test_another_layer_is_seen_though_a_thread_calls_meanwhile():
    network, x = Headed(), np.ones((1, 3), np.float32)
    network(x)
    network.head = nn.Linear(3, 7)
    assert network(x).shape == (1, 7)


# --- forks ---


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_child_uses_a_network_that_a_thread_of_its_parent_is_inside():
    network, x = dense(), np.ones((2, 3), np.float32)
    infer, right = network.compile(x.shape), network(x)
    inside, go_on = threading.Event(), threading.Event()

    def stay(layer, frame, phase):
        inside.set()
        go_on.wait(100)

    for use in (lambda: network(x), lambda: network.run(x, STEP)):
        handle = network.register_watch(stay)
        thread = threading.Thread(target=use)
        thread.start()
        assert inside.wait(100)
        handle.remove()
        child = os.fork()
        if not child:
            code = 1
            try:
                ok = np.array_equal(network(x), right)
                ok &= np.allclose(infer(x), right)
                ok &= np.array_equal(in_a_thread(lambda: network(x)), right)
                network.backward(network.run(x, STEP))
                code = 0 if ok else 2
            finally:
                os._exit(code)
        try:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            go_on.set()
            thread.join(100)
        inside.clear()
        go_on.clear()
