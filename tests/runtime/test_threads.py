"""The number of threads: set, read, refused; and who gets in where only one can be."""

import threading
import time

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.runtime import threads
from lowerconv.runtime.threads import FairMutex, _FairLock, between_kernels, parallel_region

from .children import python

pytestmark = pytest.mark.usefixtures("watchdog")


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


def test_what_is_set_is_used():
    lc.set_num_threads(1)
    assert lc.get_num_threads() == 1
    assert lc.plan_conv2d((1, 1, 4, 4), (1, 1, 3, 3)).threads == 1


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**6, ValueError),
        (1.5, TypeError),
        (True, TypeError),
        ("2", TypeError),
    ],
)
def test_nonsense_is_refused_by_name(n, kind):
    before = lc.get_num_threads()
    with pytest.raises(kind, match=r"^n: got"):
        lc.set_num_threads(n)
    assert lc.get_num_threads() == before


def test_who_asks_first_does_not_undo_what_another_thread_sets(monkeypatch):
    def meanwhile():
        lc.set_num_threads(3)
        return 2

    monkeypatch.setattr(threads, "_num_threads", None)
    monkeypatch.setattr(threads, "usable_threads", meanwhile)
    threads._default_threads.cache_clear()
    try:
        lc.get_num_threads()
        assert lc.get_num_threads() == 3
    finally:
        threads._default_threads.cache_clear()


def test_python_threads_take_turns():
    lock, left = _FairLock(), threading.Event()

    def come_once():
        lock.enter()
        left.wait()
        lock.inside.release()

    for _ in range(20):
        left.clear()
        lock.enter()
        thread = threading.Thread(target=come_once)
        thread.start()
        while lock._queue.acquire(blocking=False):  # until it waits
            lock._queue.release()
            time.sleep(1e-4)
        lock.inside.release()
        # The one who was inside is the quickest, and has to wait all the same.
        assert not lock.enter(0.0)
        left.set()
        thread.join()


def test_threads_that_come_at_once_all_get_in():
    lock, inside, most = _FairLock(), [], []

    def come_often():
        for _ in range(200):
            lock.enter()
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.inside.release()

    crew = [threading.Thread(target=come_often) for _ in range(5)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert most == [1] * 1000


def test_a_convolution_inside_another_is_refused():
    x, w = np.ones((1, 2, 5, 5), np.float32), np.ones((2, 2, 3, 3), np.float32)
    with parallel_region(2), pytest.raises(RuntimeError, match="inside a convolution"):
        lc.conv2d(x, w)  # as a signal's handler might
    assert (lc.conv2d(x, w) == 18).all()


def test_turns_come_in_order_and_not_to_who_has_one():
    mutex, order, crew = FairMutex("a thing"), [], []

    def take(number):
        with mutex.hold():
            order.append(number)

    with mutex.hold():
        for number in range(8):
            crew.append(threading.Thread(target=take, args=[number]))
            crew[-1].start()
            time.sleep(0.02)  # until it waits
        with pytest.raises(RuntimeError, match="inside a thing"):
            mutex.hold().__enter__()
        assert not order
    for thread in crew:
        thread.join(100)
    assert order == sorted(order)
    with mutex.hold():
        pass


def test_nothing_convolves_between_kernels():
    x, w = np.ones((1, 2, 5, 5), np.float32), np.ones((2, 2, 3, 3), np.float32)
    thread = threading.Thread(target=lc.conv2d, args=[x, w])
    with between_kernels():
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        with pytest.raises(RuntimeError, match="inside a convolution"):
            lc.conv2d(x, w)
    thread.join(100)
    assert not thread.is_alive()


AT_EXIT = """
import atexit, threading, time
import numpy as np
x = np.ones((1, 3), "f4")
def last():  # registered before the library is there: called after it has ended
    try:
        print(network(x).shape)
    except RuntimeError as error:
        print(error)
atexit.register(last)
from lowerconv import nn
network = nn.Sequential(nn.Linear(3, 2))
inside = threading.Event()
def serve():
    while True:
        network(x)
        inside.set()
threading.Thread(target=serve, daemon=True).start()
inside.wait()
"""


def test_the_end_of_python_does_not_wait_for_a_network():
    assert python("-c", AT_EXIT) in ("(1, 2)", "a thread that has ended is inside a network")
