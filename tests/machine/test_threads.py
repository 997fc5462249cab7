"""The number of threads: set, read, refused; and who gets in where only one can be."""

import threading

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.machine.threads import parallel_region

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


def test_python_threads_take_turns():
    x, w = np.ones((8, 32, 28, 28), np.float32), np.ones((32, 32, 3, 3), np.float32)
    plan, stop, turns = lc.plan_conv2d(x.shape, w.shape), threading.Event(), [0]
    plan(x, w)

    def convolve_always():
        while not stop.is_set():
            plan(x, w)
            turns[0] += 1

    thread = threading.Thread(target=convolve_always)
    thread.start()
    try:
        for _ in range(20):
            plan(x, w)
    finally:
        stop.set()
        thread.join()
    # About as many; a lock that whoever has just had it gets again would give it thousands.
    assert turns[0] < 20 * 20


def test_a_convolution_inside_another_is_refused():
    x, w = np.ones((1, 2, 5, 5), np.float32), np.ones((2, 2, 3, 3), np.float32)
    with parallel_region(2), pytest.raises(RuntimeError, match="inside a convolution"):
        lc.conv2d(x, w)  # as a signal's handler might
    assert (lc.conv2d(x, w) == 18).all()
