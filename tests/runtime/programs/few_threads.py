"""Convolve on many threads where the system gives this process a few more only.

usage: few_threads.py THREADS FEW

Prints on how many threads kernels run then, and the warnings.
"""

import os
import resource
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from convolutions import same, works

import lowerconv as lc

threads, few = map(int, sys.argv[1:])
lc.set_num_threads(1)
jobs = works(2 * len(lc.algorithms()))
expected = [work.run() for work in jobs]
lc.set_num_threads(threads)
plans = [
    lc.plan_conv2d(work.x.shape, work.w.shape, padding=work.padding, algorithm=work.algorithm)
    for work in jobs
]
limit = 0
if os.getuid() == 0:  # whom nothing limits: a user who has no other processes
    os.setuid(54321)
    limit = len(os.listdir("/proc/self/task")) + few
resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for plan, work, results in zip(plans, jobs, expected, strict=True):
        assert same([plan(work.x, work.w)], results[:1]), work.algorithm
        assert same(work.run(), results), work.algorithm
# Where kernels are kept may be another user's folder.
print(lc.get_num_threads(), *(one.message for one in told if "threads" in str(one.message)))
