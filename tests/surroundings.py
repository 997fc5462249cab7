"""What an interrupt may not change: threads of BLAS, CPUs, and the results of others."""

import os
import threading
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
from threadpoolctl import ThreadpoolController

import lowerconv as lc

X, W = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)

LIMIT = 100  # seconds, for what takes none


@lru_cache
def libraries() -> list:
    return ThreadpoolController().select(user_api="blas").lib_controllers


def surroundings() -> tuple:
    """Return what belongs to the whole process."""
    blas = [library.get_num_threads() for library in libraries()]
    mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return blas, mask, np.geterr(), dict(os.environ)


def elsewhere(function) -> object:
    """Return what a function returns in another thread, which finds nothing locked."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert results, "it hangs, or has failed"
    return results[0]


def right() -> bool:
    return bool((lc.conv2d(X, W, algorithm="fused") == 18).all())


def check_all(before: tuple) -> None:
    assert surroundings() == before
    assert elsewhere(right)
    assert right()


class Flag:
    """What is set for a while, and how that must not be done."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.raised = False

    @contextmanager
    def up(self):
        self.raised = True
        try:
            yield
        finally:
            self.raised = False

    def raise_for_a_while(self):
        with self.up():
            pass

    def acquire_and_release(self):
        self.lock.acquire()
        try:
            pass
        finally:
            self.lock.release()

    def hold(self):
        with self.lock:
            pass
