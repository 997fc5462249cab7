"""Convolves from the threads of a user's own parallel loop: ``python inside_numba.py LAYER``."""

import sys
import threading
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numba
import numpy as np
from convolutions import works
from numba import njit, objmode, prange
from numba.core.errors import NumbaWarning

import lowerconv as lc

warnings.simplefilter("ignore", NumbaWarning)  # Python inside a parallel loop is unusual
numba.config.THREADING_LAYER = sys.argv[1]
THREADS, TURNS = 2, 40

works_of_turns = works(TURNS)
threads, results = set(), {}


def convolve(turn: int) -> None:
    threads.add(threading.get_ident())
    results[turn] = works_of_turns[turn].run()


@njit(parallel=True, nogil=True)
def convolve_all(turns):
    for turn in prange(turns):
        with objmode():
            convolve(turn)


lc.set_num_threads(3)
expected = [work.run() for work in works_of_turns]
numba.set_num_threads(THREADS)
convolve_all(TURNS)
assert numba.threading_layer() == sys.argv[1]
assert len(threads) == THREADS, threads
assert numba.get_num_threads() == THREADS
for turn, right in enumerate(expected):
    assert all(map(np.array_equal, results[turn], right)), works_of_turns[turn].algorithm
print("right")
