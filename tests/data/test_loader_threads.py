"""Threads of loaders: when they end, in forked children, and on which CPUs."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.data.test_loader_ahead import EVERYTHING, assert_same, loader


def threads_alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("lowerconv-data")]


def wait_for_their_end():
    """Wait for the threads of loaders that nobody has any more; fails after minutes."""
    deadline = time.monotonic() + 300
    while threads_alive() and time.monotonic() < deadline:
        gc.collect()  # until then they finish what they are at
        time.sleep(0.01)
    assert not threads_alive()


def test_threads_end_with_their_loader():
    wait_for_their_end()  # those of other tests
    batches = loader(workers=2, augment=EVERYTHING)
    assert not threads_alive()  # until there is something to do
    for _ in batches.batches(0, 0):
        break  # in the middle
    assert threads_alive()
    batches.close()
    assert not threads_alive()
    assert len(list(batches.batches(0, 0))) == 7  # it can be used again
    batches.prefetch(0, 1)
    del batches
    wait_for_their_end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_loads_too():
    batches = loader(workers=2, augment=EVERYTHING)
    expected = list(batches.batches(0, 0))
    batches.prefetch(0, 0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert_same(batches.batches(0, 0), expected)
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 300
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert done[1] == 0
    assert_same(batches.batches(0, 0), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_loads_though_a_thread_of_its_parent_was_counting():
    batches = loader(workers=1)
    expected = list(batches.batches(0, 0))
    with batches._threads.locked():  # as a thread that has made a batch
        child = os.fork()
        if child == 0:
            signal.alarm(100)
            status = 1
            try:
                assert_same(batches.batches(0, 0), expected)
                status = 0
            finally:
                os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_epochs_of_two_threads_at_once():
    batches = loader(workers=2, augment=EVERYTHING)
    expected = [list(batches.batches(3, epoch)) for epoch in range(4)]
    batches.close()
    before, errors = batches.report().batches, []

    def read(epoch):
        try:
            for _ in range(5):
                assert_same(batches.batches(3, epoch), expected[epoch])
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=read, args=[epoch]) for epoch in range(4)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert not errors
    assert batches.report().batches == before + 5 * 4 * len(batches)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be bound here")
def test_threads_stay_on_their_cpus(monkeypatch):
    mask = os.sched_getaffinity(0)
    for cpu in mask:
        batches = loader(workers=2, augment=EVERYTHING, cpus=[cpu])
        seen = []
        make = batches._make

        def watched(*arguments, make=make, seen=seen):
            seen.append(os.sched_getaffinity(0))
            return make(*arguments)

        monkeypatch.setattr(batches, "_make", watched)
        list(batches.batches(0, 0))
        assert seen == [{cpu}] * 7
        batches.close()
    assert os.sched_getaffinity(0) == mask


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be bound here")
def test_cpus_that_are_not_there_are_told():
    batches = loader(workers=1, augment=EVERYTHING, cpus=[100_000])
    expected = loader(workers=0, augment=EVERYTHING)
    with pytest.warns(RuntimeWarning, match=r"loads data to CPUs \[100000\]"):
        found = list(batches.batches(0, 0))
    assert_same(found, expected.batches(0, 0))


SPARE = """
import os
import numpy as np
from lowerconv.data import Augment, Dataset, Loader, Normalizer
from lowerconv.runtime.affinity import cores, places, set_affinity, set_share

mask = os.sched_getaffinity(0)
before = cores()
spare = set_share(None, spare=True)
set_affinity("compact")
assert spare in mask and cores() == before - 1
images = np.zeros((20, 1, 8, 8), np.uint8)
source = Dataset("d", images, np.zeros(20, np.int64), ("a",))
loader = Loader(source, Normalizer(source), 5, augment=Augment(flip=50), cpus=[spare])
seen, make = [], loader._make
def watched(*arguments):
    seen.append(os.sched_getaffinity(0))
    return make(*arguments)
loader._make = watched
assert len(list(loader.batches(0, 0))) == 4
assert seen == [{spare}] * 4, seen
assert spare not in places(cores())
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be bound here")
def test_the_spare_core_is_for_the_loader_alone():
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a single CPU")
    run = subprocess.run([sys.executable, "-c", SPARE], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers: got -1"),
        ({"ahead": 0}, "ahead: got 0"),
        ({"cpus": []}, "cpus: got none"),
        ({"cpus": [-1]}, "cpus: got -1"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        loader(**options)
    with pytest.raises(ValueError, match=r"^position: got -1"):
        next(loader().batches(0, 0, -1))
