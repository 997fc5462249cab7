"""Convolves until it is interrupted: ``python interrupts.py TIMES``, the last time for good.

It prints a line when it begins, and after each interrupt when all is as it was before.
"""

import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from convolutions import same, works
from threadpoolctl import ThreadpoolController

import lowerconv as lc

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
lc.set_num_threads(3)
WORKS = works(len(lc.algorithms()))
EXPECTED = [work.run() for work in WORKS]
LIBRARIES = ThreadpoolController().lib_controllers
BLAS = [library.num_threads for library in LIBRARIES]
checked = []


def check() -> None:
    """Convolve in another thread, which must find nothing locked, from the same plans."""
    checked.append(
        all(same(work.run(), right) for work, right in zip(WORKS, EXPECTED, strict=True))
    )


def wait_for_interrupt() -> None:
    print("convolving", flush=True)
    while True:
        for work in WORKS:
            work.run()


for _ in range(int(sys.argv[1]) - 1):
    try:
        wait_for_interrupt()
    except KeyboardInterrupt:
        assert [library.get_num_threads() for library in LIBRARIES] == BLAS
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()
        assert checked.pop()
wait_for_interrupt()
