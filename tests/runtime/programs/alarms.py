"""Is interrupted at any moment of short convolutions: ``python alarms.py SEED TIMES``."""

import random
import signal
import sys
import threading

import numpy as np

import lowerconv as lc
from lowerconv.runtime import team as teams

SEED, TIMES = map(int, sys.argv[1:])
LIMIT = 60  # seconds, for what takes none

lc.set_num_threads(5)
X, W = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
PLANS = [lc.plan_conv2d(X.shape, W.shape, algorithm=name) for name in lc.algorithms()]
chance = random.Random(SEED)
right = []


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def check() -> None:
    right.append(all(np.allclose(plan(X, W), 18) for plan in PLANS))


for plan in PLANS:
    plan(X, W)
signal.signal(signal.SIGALRM, interrupt)
for turn in range(TIMES):
    plan = chance.choice(PLANS)
    if turn % 10 == 0:
        teams.end()  # threads are started again
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 3e-4))
        while True:
            plan(X, W)
    except KeyboardInterrupt:
        pass
    check()  # in this thread, and in another
    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert right == [True, True], "nobody gets in any more"
    right.clear()
print("right")
