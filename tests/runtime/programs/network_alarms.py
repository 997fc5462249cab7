"""Is interrupted at any moment of calls of a network: ``python network_alarms.py SEED TIMES``."""

import random
import signal
import sys
import threading

import numpy as np

import lowerconv as lc
from lowerconv import nn

SEED, TIMES = map(int, sys.argv[1:])
LIMIT = 60  # seconds, for what takes none

lc.set_num_threads(3)
NETWORK = nn.Sequential(
    nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=0), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
)
X, STEP = np.ones((1, 2, 6, 6), np.float32), nn.Step(training=True)
INFER = NETWORK.compile(X.shape)
RIGHT = NETWORK(X)


USES = [
    lambda: NETWORK(X),
    lambda: INFER(X),
    lambda: NETWORK.run(X),
    lambda: NETWORK.run(X, STEP),
]
chance = random.Random(SEED)
right = []


def interrupt(number: int, frame: object) -> None:
    # As a handler may that does not know what it interrupts: it is told, or it gets its answer.
    if chance.random() < 0.3:
        for use in USES[:2]:
            try:
                assert np.allclose(use(), RIGHT)
            except RuntimeError as error:
                assert "inside" in str(error), error
    if chance.random() < 0.5:
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1e-3))


def check() -> None:
    NETWORK.backward(NETWORK.run(X, STEP))
    right.append(all(np.allclose(use(), RIGHT, atol=1e-6) for use in USES[:3]))


check()
right.clear()
signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
for _ in range(TIMES):
    use = chance.choice(USES)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 1e-3))
        while True:
            use()
    except KeyboardInterrupt:
        interrupted += 1
    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    thread.join(LIMIT)
    check()
    assert right == [True, True], "nobody gets in any more"
    right.clear()
assert interrupted == TIMES
print("right")
