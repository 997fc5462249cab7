"""Launches that are captured and replayed: they compute what the steps compute."""

import threading
import warnings

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn
from lowerconv.nn import replay
from lowerconv.nn.functional import pointwise
from lowerconv.runtime import capture
from tests.nn.graphs import RandomNetwork
from tests.runtime.children import python


@pytest.fixture
def parts(monkeypatch):
    """Return a list that grows with the numbers of launches of every replay."""
    made = []
    plain = capture.Capture.replay

    def counting(self, handle, first, last):
        made.append(last - first)
        return plain(self, handle, first, last)

    monkeypatch.setattr(capture.Capture, "replay", counting)
    return made


class Small(nn.Module):
    """A network of layers that launch, and of one that does not."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.norm = nn.LocalResponseNorm(5)
        self.deep = nn.Conv2d(8, 6, 3, groups=2)
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = nn.relu(self.first(x))
        y = pointwise(self.second(x), "hard_swish") + x
        z = self.deep(nn.concat(self.norm(y)))
        return self.linear(nn.Flatten()(nn.GlobalAvgPool2d()(nn.MaxPool2d(2)(z))))


def images(count=6, shape=(2, 3, 9, 10), dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(count)]


def test_replays_compute_what_the_steps_compute(parts):
    network = Small()
    infer = network.compile((2, 3, 9, 10))
    for i, x in enumerate(images()):
        np.testing.assert_array_equal(infer(x), network(x))
        assert len(parts) == 2 * max(0, i - 1)  # before and after the norm, from the third time on
    assert sum(parts[:2]) >= 6


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed, parts, monkeypatch):
    network = RandomNetwork(300 + seed, nodes=12)
    rng = np.random.default_rng(seed)
    for parameter in network.parameters().values():
        parameter.data[...] = rng.standard_normal(parameter.data.shape)
    infer = network.compile((2, 3, 5, 6))
    xs = images(5, (2, 3, 5, 6), np.float64)
    found = [infer(x) for x in xs]
    assert parts
    monkeypatch.setattr(replay, "_is_capturable", lambda layer, frame: False)
    count, infer = len(parts), network.compile((2, 3, 5, 6))
    for x, result in zip(xs, found, strict=True):
        np.testing.assert_array_equal(infer(x), result)
    assert len(parts) == count


def test_memory_that_moves_is_captured_anew(parts):
    network = Small()
    infer = network.compile((2, 3, 9, 10))
    xs = images()
    for x in xs[:4]:
        infer(x)
    before = len(parts)
    assert before
    # A convolution that needs more scratch memory than all before: the buffer moves.
    wide = np.ones((1, 64, 70, 71), np.float32)
    lc.conv2d(wide, np.ones((64, 64, 5, 5), np.float32), algorithm="lowering")
    for x in xs:
        np.testing.assert_array_equal(infer(x), network(x))
    assert len(parts) > before


def test_numbers_of_threads(parts):
    network = Small()
    infer = network.compile((2, 3, 9, 10))
    xs, before = images(), lc.get_num_threads()
    try:
        for threads in (1, 3, 2, 1, 3):
            lc.set_num_threads(threads)
            for x in xs:
                np.testing.assert_array_equal(infer(x), network(x))
    finally:
        lc.set_num_threads(before)
    assert parts


class Doubled(nn.ReLU):
    """A layer that does more than the one that it is made of."""

    def compute(self, frame, step):
        super().compute(frame, step)
        np.multiply(frame.y.array, 2, out=frame.y.array)


def test_layers_of_others_are_computed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), Doubled())
    infer = network.compile((2, 3, 9, 10))
    for x in images():
        np.testing.assert_array_equal(infer(x), network(x))


def test_without_room_nothing_is_replayed(parts, monkeypatch):
    network = Small()
    monkeypatch.setattr(replay, "Capture", lambda launches: capture.Capture(3))
    infer = network.compile((2, 3, 9, 10))
    for x in images():
        np.testing.assert_array_equal(infer(x), network(x))
    assert not parts


class Foreign(nn.Layer):
    """A layer that says that it launches, and computes with NumPy."""

    in_place = True

    def result_shape(self, *shapes):
        return shapes[0]

    def is_capturable(self, frame):
        return True

    def compute(self, frame, step):
        frame.y.array[...] = np.sin(frame.x.array)


def test_layers_that_launch_nothing_are_computed(parts):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), Foreign(), nn.MaxPool2d(2))
    infer = network.compile((2, 3, 9, 10))
    for x in images():
        np.testing.assert_array_equal(infer(x), network(x))
    assert parts


def test_what_a_handler_computes_meanwhile_is_not_replayed(parts, monkeypatch):
    """A handler of a signal may use other networks between two kernels of a capture."""
    network, other = Small(), Small()
    infer, meanwhile = network.compile((2, 3, 9, 10)), other.compile((2, 3, 9, 10))
    xs = images(10)
    plain, calls = nn.MaxPool2d.compute, []

    def interrupted(self, frame, step):
        calls.append(None)
        if len(calls) in (2, 3, 4, 6):
            monkeypatch.setattr(nn.MaxPool2d, "compute", plain)
            np.testing.assert_array_equal(meanwhile(xs[0]), other(xs[0]))
            monkeypatch.setattr(nn.MaxPool2d, "compute", interrupted)
        plain(self, frame, step)

    expected = [network(x) for x in xs]
    monkeypatch.setattr(nn.MaxPool2d, "compute", interrupted)
    for x, result in zip(xs, expected, strict=True):
        np.testing.assert_array_equal(infer(x), result)
    assert parts


def test_fewer_threads_than_captured(parts, monkeypatch):
    network = Small()
    before = lc.get_num_threads()
    lc.set_num_threads(3)
    try:
        infer = network.compile((2, 3, 9, 10))
        xs = images()
        expected = [infer(x) for x in xs]
        assert parts
        refused = len(parts)
        monkeypatch.setattr(capture.Capture, "fits", lambda self, handle, first, last: False)
        for x, result in zip(xs, expected, strict=True):
            np.testing.assert_array_equal(infer(x), result)
        assert len(parts) == refused
    finally:
        lc.set_num_threads(before)


def test_interrupted_while_captured(parts, monkeypatch):
    network = Small()
    infer = network.compile((2, 3, 9, 10))
    xs = images()
    infer(xs[0])
    plain = nn.Linear.compute

    def interrupted(self, frame, step):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.Linear, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer(xs[1])
    monkeypatch.setattr(nn.Linear, "compute", plain)
    for x in xs:
        np.testing.assert_array_equal(infer(x), network(x))
    assert parts


def test_threads_that_capture_at_once(parts):
    networks = [Small() for _ in range(4)]
    infers = [network.compile((2, 3, 9, 10)) for network in networks]
    xs = images(20)
    wrong = []

    def serve(i):
        for x in xs:
            if not np.array_equal(infers[i](x), networks[i](x)):
                wrong.append(i)

    threads = [threading.Thread(target=serve, args=[i]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert parts


FORKED = """
import os
import numpy as np
from lowerconv import nn
network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))
infer = network.compile((2, 3, 9, 10))
x = np.random.default_rng(0).standard_normal((2, 3, 9, 10)).astype("f4")
expected = [infer(x) for _ in range(4)][-1]
child = os.fork()
if not child:
    same = all(np.array_equal(infer(x), expected) for _ in range(4))
    os._exit(0 if same else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(infer(x), expected))
"""


def test_in_a_forked_child():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert python("-c", FORKED) == "0 True"
