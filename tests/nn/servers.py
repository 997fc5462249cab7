"""Small networks, and threads that use them all at once.

More calls than suites have time for, a quarter of an hour of them::

    LOWERCONV_CALLS=10000 python -m pytest tests/nn/test_threads.py tests/conv/test_plan_threads.py
"""

import os
import threading
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from lowerconv import nn

THREADS, USUAL = 8, 600
CALLS = int(os.environ.get("LOWERCONV_CALLS", USUAL))  # of each thread
PATIENCE = 250 * max(1, CALLS // USUAL)  # seconds, after which a thread hangs
WATCHED = [pytest.mark.usefixtures("watchdog")] if CALLS <= USUAL else []
STEP = nn.Step(training=True)


class Branches(nn.Module):
    """Branches that are added and put together."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(2, 3, 1)
        self.right = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(6 * 36, 2)

    def forward(self, x):
        left = nn.relu(self.norm(self.left(x)))
        right = self.right(x) + left
        return self.head(nn.flatten(nn.concat(left, nn.relu(right))))


def dense() -> nn.Module:
    """Return a network for inputs (2, 3)."""
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    network.initialize(np.random.default_rng(1))  # of all draws some have no ReLU that is open
    return network


def convolutional() -> nn.Module:
    """Return a network for inputs (2, 2, 6, 6)."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 9, 2),
    )


#           a network, and the shape of what it takes
NETWORKS = {
    "dense": (dense, (2, 3)),
    "convolutional": (convolutional, (2, 2, 6, 6)),
    "branches": (Branches, (2, 2, 6, 6)),
}


def at_once(works: Iterable[Callable[[], None]], timeout: float = PATIENCE) -> list[BaseException]:
    """Do each work on a thread of its own, begun together; return what was raised."""
    works = list(works)
    begin, raised = threading.Barrier(len(works)), []

    def do(work):
        try:
            begin.wait()
            work()
        except BaseException as error:
            raised.append(error)

    crew = [threading.Thread(target=do, args=[work], daemon=True) for work in works]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread waits for ever"
    return raised


def in_a_thread(work: Callable[[], object]) -> object:
    """Return what a function returns on another thread, or raise what it raises."""
    results = []
    for error in at_once([lambda: results.append(work())]):
        raise error
    return results[0]


class Trainers:
    """Threads that train networks of their own for as long as a ``with`` statement lasts."""

    def __init__(self, count: int) -> None:
        self._stop, self.raised, self.steps = threading.Event(), [], 0
        self._crew = [threading.Thread(target=self._train, daemon=True) for _ in range(count)]

    def _train(self) -> None:
        try:
            network = convolutional()
            optimizer = nn.SGD(network, 1e-3, 0.9)
            x = np.ones((4, 2, 6, 6), np.float32)
            while not self._stop.is_set():
                scores = network.run(x, STEP)
                network.backward(scores)
                optimizer.step()
                self.steps += 1
        except BaseException as error:
            self.raised.append(error)

    def __enter__(self) -> "Trainers":
        for thread in self._crew:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._crew:
            thread.join(100)
        assert not self.raised
        assert self.steps or not self._crew
