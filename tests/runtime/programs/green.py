"""Convolve where Python's threads are greenlets.

usage: green.py gevent|eventlet before|after|between

The library patches Python before lowerconv is imported, after that, or between two convolutions.
"""

import os
import sys
import threading
import warnings

library, when = sys.argv[1:]
warnings.filterwarnings("ignore", category=DeprecationWarning)  # eventlet's own, and of forks


def patch():
    if library == "gevent":
        from gevent import monkey

        monkey.patch_all()
    else:
        import eventlet

        eventlet.monkey_patch()


if when == "before":
    patch()

import numpy as np  # noqa: E402

import lowerconv as lc  # noqa: E402
from lowerconv.data import Augment, Dataset, Loader, Normalizer  # noqa: E402
from lowerconv.runtime.report import machine_report  # noqa: E402

if when == "after":
    patch()

x, w = np.ones((4, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32)


def convolve(times=1):
    return all((lc.conv2d(x, w) == 72).all() for _ in range(times))


lc.set_num_threads(2)
if when == "between":
    assert convolve()
    assert "lowerconv-1" in [thread.name for thread in threading.enumerate()]
    patch()
lc.set_num_threads(3)
for algorithm in lc.algorithms():
    y = lc.conv2d(x, w, algorithm=algorithm)
    assert np.allclose(y, 72), algorithm
    lc.conv2d_input_grad(y, w, x.shape, algorithm=algorithm)
    lc.conv2d_weight_grad(y, x, w.shape, algorithm=algorithm)

# Greenlets of this thread and of other ones, at once.
if library == "gevent":
    import gevent

    threads = [gevent.get_hub().threadpool.spawn(convolve, 50) for _ in range(3)]
    greenlets = [gevent.spawn(convolve, 50) for _ in range(3)]
    assert all(one.get() for one in greenlets + threads)
else:
    import eventlet
    from eventlet import tpool

    greenlets = [eventlet.spawn(convolve, 50) for _ in range(3)]
    assert tpool.execute(convolve, 50) and all(one.wait() for one in greenlets)
    tpool.killall()

# What works ahead of others, on CPUs of its own.
images = np.random.default_rng(0).integers(0, 256, (40, 3, 12, 12), np.uint8)
source = Dataset("random", images, np.zeros(40, np.int64), ("a",))


def batches(workers, cpus=None):
    augment = Augment.parse("crop,zoom")
    loader = Loader(source, Normalizer(source), 5, augment=augment, workers=workers, cpus=cpus)
    found = [batch.images for batch in loader.batches(1, 0)]
    loader.close()
    return found


mask = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
found = batches(2, None if mask is None else [min(mask)])
assert all(map(np.array_equal, found, batches(0)))
assert mask is None or os.sched_getaffinity(0) == mask  # that of the thread that asks

# From Python 3.13 on gevent complains in children of any thread that was started before it patched.
if hasattr(os, "fork") and when != "between":
    child = os.fork()
    if not child:
        os._exit(0 if convolve() else 1)
    assert os.waitpid(child, 0)[1] == 0
assert machine_report()["cores"]["threads_in_use"] == 3
print("right")
