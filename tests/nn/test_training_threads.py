"""One thread trains a network, whole or in parts: others are told."""

import copy
import threading

import numpy as np
import pytest

from lowerconv import nn
from tests.nn.servers import STEP, at_once, dense, in_a_thread

pytestmark = pytest.mark.usefixtures("watchdog")


def test_two_threads_cannot_be_inside_one_network():
    network, x = dense(), np.ones((2, 3), np.float32)
    inside, go_on, phases = threading.Semaphore(0), threading.Semaphore(0), []

    def stay(layer, frame, phase):
        if phase not in phases:
            phases.append(phase)
            inside.release()
            go_on.acquire(timeout=100)

    def train():
        network.backward(network.run(x, STEP))

    network.register_watch(stay)
    thread = threading.Thread(target=train, name="first")
    thread.start()
    for phase in ("forward", "backward"):
        assert inside.acquire(timeout=100)
        assert phases[-1] == phase
        with pytest.raises(RuntimeError, match=r"^run: thread 'first' is inside a training step"):
            network.run(x, STEP)
        with pytest.raises(RuntimeError, match="thread 'first' is inside"):  # and its parts
            network.children()["2"].run(np.ones((2, 5), np.float32), STEP)
        network.run(x)  # is no training
        go_on.release()
    thread.join(100)
    train()  # nobody is inside any more


def test_who_was_overtaken_is_told():
    network, x = dense(), np.ones((2, 3), np.float32)
    optimizer = nn.SGD(network, 0.1)
    before = optimizer.data.copy()
    y = network.run(x, STEP).copy()
    in_a_thread(lambda: network.backward(network.run(x, STEP)))
    with pytest.raises(RuntimeError, match=r"^backward: thread .* since the run of thread 'Main"):
        network.backward(y)
    network.backward(network.run(x, STEP))
    in_a_thread(lambda: network.backward(network.run(x, STEP)))
    with pytest.raises(RuntimeError, match=r"^step: thread .* since the backward of thread 'Main"):
        optimizer.step()
    assert optimizer.updates == 0 and np.array_equal(optimizer.data, before)
    network.backward(network.run(x, STEP))  # and goes on with a step of its own
    optimizer.step()
    assert not np.array_equal(optimizer.data, before)


def test_a_part_that_another_thread_trains_counts():
    network, x = dense(), np.ones((2, 3), np.float32)
    y = network.run(x, STEP).copy()
    part = network.children()["2"]
    in_a_thread(lambda: part.backward(part.run(np.ones((2, 5), np.float32), STEP)))
    with pytest.raises(RuntimeError, match=r"^backward: thread .* \(a Linear in it\)"):
        network.backward(y)


def test_a_step_may_be_left_and_handed_on():
    network, x = dense(), np.ones((2, 3), np.float32)
    optimizer = nn.SGD(network, 0.1)
    for _ in range(3):
        in_a_thread(lambda: network.run(x, STEP).copy())  # and nothing else: left by its thread
        network.backward(network.run(x, STEP))
        optimizer.step()
    in_a_thread(lambda: network.backward(network.run(x, STEP)))
    optimizer.step()  # of what a thread has computed that has ended


def test_an_error_in_a_step_locks_nobody_out():
    network, x = dense(), np.ones((2, 3), np.float32)

    def fail(layer, frame, phase):
        raise ZeroDivisionError

    def failing():
        with pytest.raises(ZeroDivisionError):
            network.run(x, STEP)
        with pytest.raises(RuntimeError, match="ran again"):  # what it needs is not there
            network.backward(np.ones((2, 2), np.float32))
        with pytest.raises(ZeroDivisionError):
            network(x)

    handle = network.register_watch(fail)
    in_a_thread(failing)
    failing()
    handle.remove()
    network.backward(network.run(x, STEP))
    assert np.array_equal(in_a_thread(lambda: network(x)), network(x))


def test_threads_that_train_one_network_are_told_or_are_right():
    """However they come, gradients that nobody was warned of are those of one thread's batch."""
    network, rng = dense(), np.random.default_rng(0)
    xs = [rng.standard_normal((2, 3), np.float32) for _ in range(2)]
    twin = copy.deepcopy(network)
    right = []
    for x in xs:
        twin.backward(twin.run(x, STEP))
        right.append({name: p.grad.copy() for name, p in twin.parameters().items()})
    told = []

    def train(i):
        for _ in range(300):
            try:
                network.backward(network.run(xs[i], STEP))
            except RuntimeError as error:
                assert "thread" in str(error)
                told.append(i)

    assert not at_once(lambda i=i: train(i) for i in range(2))
    print(f"{len(told)} of 600 steps refused")
    network.backward(network.run(xs[0], STEP))
    for name, parameter in network.parameters().items():
        assert np.array_equal(parameter.grad, right[0][name])
