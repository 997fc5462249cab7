"""Threads and the CPUs that they may use, as the kernel tells."""

import errno
import os

import pytest
from numba import njit

from lowerconv.runtime import team as teams
from lowerconv.runtime.launch import call_for_int, run_on_team
from lowerconv.runtime.threads import parallel_region

pytestmark = pytest.mark.usefixtures("watchdog")


def masks():
    """Return the CPUs that each of the team's threads may run on, as the kernel has them."""
    return [os.sched_getaffinity(thread.native_id) for thread in teams.team().started]


def enter(threads, pairs=False):
    with parallel_region(threads, pairs):
        return masks()[: threads - 1]


@njit
def _where(worker, workers, getcpu, cpus):
    cpus[worker] = call_for_int(getcpu) & 0xFFFF
    # What a thread has not begun the caller does when it is through: so it waits for all of them.
    while cpus[:workers].min() < 0:
        call_for_int(getcpu)


@njit(nogil=True)
def _everywhere(team, getcpu, cpus):
    run_on_team(team, _where, (getcpu, cpus))


def refuse(*arguments):
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
