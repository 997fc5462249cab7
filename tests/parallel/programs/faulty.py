"""``lowerconv`` with faults: FAULT:RANK:PLACE:SECONDS,... ARGUMENTS...

Each happens on a rank, some seconds after it has come to a place: a step, counted from 1 in this
process, or the first ``test``, ``save`` after an epoch, ``recovery`` or ``end``.
"""

import os
import signal
import sys
import threading
import time
from functools import wraps

from lowerconv.cli.main import main
from lowerconv.machine.mpi import launched_rank
from lowerconv.parallel.comm.engine import Task
from lowerconv.parallel.comm.mpi_communicator import MPICommunicator
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train import epoch, trainer
from lowerconv.train.directory import RunDirectory


def say():
    os.write(2, f"\nfault at {time.time()}\n".encode())


def send(signum):
    say()
    os.kill(os.getpid(), signum)


def raise_here(seconds):
    time.sleep(seconds)
    say()
    raise ZeroDivisionError("on purpose")


def raise_in_thread(seconds):
    """Raise where the next collective is moved on."""
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


def limit_files(seconds):
    import resource

    say()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def never_return(seconds):
    say()
    time.sleep(1000)


def later(signum):
    def begin(seconds):
        if not seconds:
            send(signum)
        threading.Timer(seconds, send, (signum,)).start()

    return begin


FAULTS = {
    "exception": raise_here,
    "thread": raise_in_thread,
    "kill": later(signal.SIGKILL),
    "stop": later(signal.SIGSTOP),
    "busy": never_return,
    "full": limit_files,
    "nothing": lambda seconds: say(),
}
due = {}
for text in filter(None, sys.argv[1].split(",")):
    fault, rank, place, seconds = text.split(":")
    if int(rank) == (launched_rank() or 0):
        due[place] = FAULTS[fault], float(seconds)
steps = 0


def at(place):
    if place in due:
        fault, seconds = due.pop(place)
        fault(seconds)


def before(owner, name, place):
    function = getattr(owner, name)

    @wraps(function)
    def wrapper(*arguments, **options):
        at(place(*arguments))
        return function(*arguments, **options)

    setattr(owner, name, wrapper)


def count_step(*_):
    global steps
    steps += 1
    return str(steps)


for strategy in set(STRATEGIES.values()):
    before(strategy, "train", count_step)
before(epoch, "evaluate", lambda *_: "test")
before(trainer.Trainer, "save", lambda self: "save" if self.history else "first save")
before(RunDirectory, "draw", lambda *_: "end")
before(MPICommunicator, "reconnect", lambda self: "recovery")
del sys.argv[1]
sys.exit(main())
