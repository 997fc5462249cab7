"""A process that takes a share of the CPUs, and its children: in processes of their own."""

import os

import pytest

from lowerconv.runtime import affinity

from ..machine.machines import core_of, part, whole
from .children import python

pytestmark = [
    pytest.mark.usefixtures("watchdog"),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="nothing can be bound"),
]
several_cores = pytest.mark.skipif(affinity.cores() < 2, reason="one core has no parts")

PRELUDE = """
import os, threading
import numpy as np
import lowerconv as lc
from lowerconv.runtime import affinity
from lowerconv.runtime import team as teams
from lowerconv.runtime.threads import parallel_region

def mask(thread=0):
    return sorted(os.sched_getaffinity(thread))

def crew(threads):
    "Convolve, and return where the team's threads may run."
    lc.set_num_threads(threads)
    x, w = np.ones((4, 16, 20, 20), "f4"), np.ones((16, 16, 3, 3), "f4")
    for algorithm in lc.algorithms():
        assert np.allclose(lc.conv2d(x, w, algorithm=algorithm), 144), algorithm
    return [mask(thread.native_id) for thread in teams.team().started]

def in_a_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]

cpus, cores = mask(), affinity.topology().cores
"""

SHARE = """
share = sorted(cores[0])
assert affinity.set_share(share) is None
assert mask() == in_a_thread(mask) == share
assert affinity.topology().cpus == tuple(share)
assert lc.get_num_threads() == 1 == affinity.cores()
assert crew(2 * len(share)) == [share] * (2 * len(share) - 1)
assert crew(1) == [share] * (2 * len(share) - 1)
print("right")
"""

# The policy of a list leaves out what belongs to others.
LIST = """
other, mine = cpus[0], cpus[-1]
lc.set_affinity([other, mine, mine])
assert crew(3) == [[mine], [mine]]
affinity.set_share([mine])
assert affinity.places(2) == (mine, mine)
assert affinity.places(3) is None
assert crew(2)[0] == [mine]
print("right")
"""

SPARE = """
spare = affinity.set_share(None, spare=True)
own = next(core for core in cores if spare in core)
assert mask() == cpus  # for the thread that communicates
assert set(affinity.topology().cpus) == set(cpus) - set(own)
assert affinity.cores() == len(cores) - 1
lc.set_affinity("compact")
for threads in range(1, len(affinity.topology().cpus) + 1):
    assert not set(own) & set(affinity.places(threads))
assert affinity.set_share(None) is None
assert affinity.cores() == len(cores)
print("right")
"""

NONE = """
lc.set_affinity("none")
affinity.set_share(cores[0])
assert mask() == cpus
assert affinity.topology().cpus == tuple(sorted(cores[0]))
print("right")
"""

FORK = """
threads = len(cores)
bound = crew(threads)
assert [len(cpus) for cpus in bound] == [1] * (threads - 1)
child = os.fork()
if not child:
    code = 1
    try:
        assert mask() == cpus
        own = {thread.native_id for thread in teams.team().started}
        assert not own  # its parent's are not in it
        assert crew(threads) == bound
        lc.set_affinity("none")
        assert crew(threads) == [cpus] * (threads - 1)
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
assert [mask(thread.native_id) for thread in teams.team().started] == bound
assert crew(threads) == bound
print("right")
"""


@several_cores
@pytest.mark.parametrize(
    "code",
    [SHARE, LIST, SPARE, NONE, FORK],
    ids=["share", "list-of-cpus", "spare-core", "nothing-bound", "forked-child"],
)
def test_a_process_of_its_own(monkeypatch, code):
    monkeypatch.delenv(affinity.ENVIRONMENT, raising=False)
    assert python("-c", PRELUDE + code) == "right"


@pytest.fixture
def asked(monkeypatch):
    """Return what the kernel was asked for, on a machine with 2 x 16 cores."""
    machine, masks = whole("xeon-6130-x2"), []
    monkeypatch.delenv(affinity.ENVIRONMENT, raising=False)
    monkeypatch.setattr(affinity, "usable_cpus", lambda: machine.cpus)
    monkeypatch.setattr(affinity, "read_topology", lambda usable: part(machine, set(usable)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cpus: masks.append(set(cpus)))
    affinity._policy = None
    affinity._forget()
    yield masks
    monkeypatch.undo()
    affinity._policy = affinity._share = affinity._spare = None
    affinity._forget()


def test_a_rank_has_the_cores_of_its_share_less_the_one_that_communicates(asked):
    machine = whole("xeon-6130-x2")
    share = {cpu for core in machine.cores[8:24] for cpu in core}
    spare = affinity.set_share(share, spare=True)
    assert asked == [share]  # all of it: the thread that communicates is of this process too
    own = core_of(machine)[spare]
    assert set(own) <= share
    assert set(affinity.topology().cpus) == share - set(own)
    assert affinity.cores() == 15
    places = affinity.places(15)
    assert {core_of(machine)[cpu] for cpu in places} == set(machine.cores[8:24]) - {own}
    assert affinity.places(14) is None  # the cores that kernels have are not full


def test_a_share_of_one_core_has_none_to_spare(asked):
    machine = whole("xeon-6130-x2")
    assert affinity.set_share(machine.cores[5], spare=True) is None
    assert affinity.topology().cpus == tuple(sorted(machine.cores[5]))
    assert asked == [set(machine.cores[5])]
