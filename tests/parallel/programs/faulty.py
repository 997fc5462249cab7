"""``lowerconv`` with a fault: FAULT RANK STEP SECONDS ARGUMENTS...; which steps are counted from 1.

Some seconds into a step of a rank the fault happens; `full` does when the rank saves next.
"""

import os
import signal
import sys
import threading
import time

from lowerconv.cli.main import main
from lowerconv.machine.mpi import launched_rank
from lowerconv.parallel.engine import Task
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train.trainer import Trainer

fault, rank, step, seconds = sys.argv[1], *map(float, sys.argv[2:5])
steps = 0


def say():
    os.write(2, f"fault at {time.time()} pid {os.getpid()}\n".encode())


def send(signum):
    say()
    os.kill(os.getpid(), signum)


def raise_here():
    time.sleep(seconds)
    say()
    raise ZeroDivisionError("on purpose")


def raise_in_thread():
    advance = Task.advance

    def routine():
        say()
        raise ZeroDivisionError("on purpose")
        yield

    def broken(self):
        Task.advance = advance
        self._requests, self._routine = [], routine()
        return advance(self)

    Task.advance = broken


def limit_files():
    import resource

    save = Trainer.save

    def broken(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        say()
        save(self)

    Trainer.save = broken


def never_return():
    say()
    time.sleep(1000)


def later(signum):
    threading.Timer(seconds, send, (signum,)).start()


FAULTS = {
    "exception": raise_here,
    "thread": raise_in_thread,
    "kill": lambda: later(signal.SIGKILL),
    "stop": lambda: later(signal.SIGSTOP),
    "busy": never_return,
    "full": limit_files,
    "none": lambda: None,
    "wait": lambda: say(),
}


def watched(train):
    def wrapper(self, work):
        global steps
        steps += 1
        if steps == step and (launched_rank() or 0) == rank:
            FAULTS[fault]()
        return train(self, work)

    return wrapper


for strategy in set(STRATEGIES.values()):
    strategy.train = watched(strategy.train)
sys.argv[1:5] = []
sys.exit(main())
