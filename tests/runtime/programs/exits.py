"""Ends in the way that is named; forks a child for each where several are named.

``python exits.py WAY [WAY ...]``.  Exit codes and stderr are what is looked at.
"""

import atexit
import gc
import os
import sys
import threading
import time

WAYS = sys.argv[1:]
THREADS, AT_ONCE = 4, 4
way = WAYS[0]


def team_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("lowerconv")]


def last() -> None:
    """Look around when the library has ended its threads: what is registered first runs last."""
    if way == "convolve-at-exit":
        convolve()
    elif way != "daemon-convolves" and team_threads():
        print(f"{team_threads()} have not ended", file=sys.stderr)
        os._exit(1)


atexit.register(last)

import numpy as np  # noqa: E402

import lowerconv as lc  # noqa: E402

X, W = np.ones((2, 8, 12, 12), np.float32), np.ones((8, 8, 3, 3), np.float32)


def convolve() -> None:
    # Of these algorithms one hands over from numba's code, one from ctypes, one in pairs.
    for algorithm in ("lowering", "fused", "paired"):
        y = lc.conv2d(X, W, algorithm=algorithm)
        assert (y == 72).all(), algorithm


def convolve_for(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        convolve()


def exit_after_work() -> None:
    convolve()
    sys.exit(5)  # of the thread only


def end() -> None:
    lc.set_num_threads(THREADS)
    if way == "busy":
        convolve()
    elif way == "asleep":
        convolve()
        time.sleep(0.02)
    elif way == "sys-exit-in-a-thread":
        thread = threading.Thread(target=exit_after_work)
        thread.start()
        thread.join()
    elif way == "a-thread-convolves":
        threading.Thread(target=convolve_for, args=[0.1]).start()
    elif way == "daemon-convolves":
        threading.Thread(target=convolve_for, args=[60], daemon=True).start()
        time.sleep(0.03)
    elif way == "sys-exit":
        convolve()
        sys.exit(0)
    else:
        assert way == "convolve-at-exit", way
        convolve()


def wait_for_one(children: dict[int, str]) -> None:
    child, status = os.wait()
    if status:
        print(f"{children[child]}: status {status}", file=sys.stderr)
        os._exit(1)
    del children[child]


def main() -> None:
    global way
    if len(WAYS) > 1:
        convolve()  # loads what children would have to load one by one
        gc.freeze()  # and need not look through when they end
        children: dict[int, str] = {}
        for way in WAYS:
            if len(children) == AT_ONCE:
                wait_for_one(children)
            child = os.fork()
            if not child:
                break
            children[child] = way
        else:
            while children:
                wait_for_one(children)
            print(f"{len(WAYS)} ended")
            way = "busy"
    end()


main()
