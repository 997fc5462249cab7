"""Children convolve that were forked or spawned while a thread of the parent is inside.

``python forks.py WAY ROUNDS``: "fork" (``os.fork``), or a start method of multiprocessing; and how
often some children are made.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from convolutions import same, works

import lowerconv as lc

CHILDREN, THREADS = 3, 3
LIMIT = 100  # seconds, after which a child that hangs is killed


def convolve_always(inside: threading.Event) -> None:
    while True:
        for work in works(len(lc.algorithms())):
            inside.set()
            work.run()


def check(seed: int) -> None:
    """Compare with what one thread computes: the team cannot have a part in that."""
    for work in works(len(lc.algorithms()), seed):
        lc.set_num_threads(1)
        alone = work.run()
        lc.set_num_threads(THREADS)
        assert same(work.run(), alone), work.algorithm


def child(seed: int) -> None:
    signal.alarm(LIMIT)
    check(seed)
    # Threads of the child may convolve as well as those of its parent.
    thread = threading.Thread(target=works(1)[0].run)
    thread.start()
    thread.join()


def fork(seed: int) -> int:
    number = os.fork()
    if not number:
        try:
            child(seed)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return number


def main(way: str, rounds: int) -> None:
    lc.set_num_threads(THREADS)
    check(0)
    inside = threading.Event()
    threading.Thread(target=convolve_always, args=[inside], daemon=True).start()
    inside.wait()
    codes = []
    for round in range(rounds):
        time.sleep(0.003 * round)
        if way == "fork":
            numbers = [fork(seed) for seed in range(CHILDREN)]
            codes += [os.waitpid(number, 0)[1] for number in numbers]
        else:
            context = multiprocessing.get_context(way.removeprefix("multiprocessing-"))
            processes = [context.Process(target=child, args=[seed]) for seed in range(CHILDREN)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            codes += [process.exitcode for process in processes]
    check(1)
    print(codes)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
