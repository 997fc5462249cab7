"""Which CPUs threads are bound to: as the policy says, and as the kernel tells."""

import ctypes
import errno
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.machine.placement import placement
from lowerconv.runtime import affinity
from lowerconv.runtime import team as teams
from lowerconv.runtime.threads import parallel_region
from tests.runtime.masks import _everywhere, enter, masks, refuse

from ..machine.machines import core_of, part, whole
from .convolutions import same, works

pytestmark = pytest.mark.usefixtures("watchdog")

linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="nothing can be bound")
CORES = affinity.cores()
several_cores = pytest.mark.skipif(
    CORES < 2 or not hasattr(os, "sched_setaffinity"), reason="one core only: nothing to choose"
)


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    def forget():
        affinity._policy = affinity._share = affinity._spare = None
        affinity._forget()

    monkeypatch.delenv(affinity.ENVIRONMENT, raising=False)
    forget()
    threads = lc.get_num_threads()
    yield
    monkeypatch.undo()
    forget()
    lc.set_num_threads(threads)
    with parallel_region(1):  # which frees the others
        pass


@pytest.fixture
def new_team():
    """Begin with no threads at all."""
    teams.end()


@pytest.fixture
def made_up(monkeypatch):
    """Return a function that has the library see another machine; nothing can be bound there."""

    def pretend(name):
        machine = whole(name)
        monkeypatch.setattr(affinity, "usable_cpus", lambda: machine.cpus)
        monkeypatch.setattr(affinity, "read_topology", lambda usable: part(machine, set(usable)))
        monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: None, raising=False)
        affinity._forget()
        return machine

    return pretend


# What users ask for


@pytest.mark.parametrize("policy", affinity.NAMES)
def test_a_policy_is_what_was_set(policy):
    lc.set_affinity(policy)
    assert lc.get_affinity() == policy


@linux
def test_what_was_begun_before_the_policy_changed_is_not_kept(monkeypatch):
    """As by a thread that is inside `places` while another one sets the policy."""
    read, changes = affinity.read_topology, ["none"]

    def meanwhile(usable):
        if changes:
            lc.set_affinity(changes.pop())
        return read(usable=usable)

    lc.set_affinity("compact")
    assert affinity.places(1) is not None
    affinity._forget()
    monkeypatch.setattr(affinity, "read_topology", meanwhile)
    affinity.places(1)
    assert affinity.places(1) is None


def test_who_asks_first_does_not_undo_what_another_thread_sets(monkeypatch):
    parse, other = affinity.parse_affinity, threading.Thread(target=lc.set_affinity, args=["none"])

    def meanwhile(text):
        other.start()
        other.join(0.2)  # unless it has to wait
        return parse(text)

    monkeypatch.setattr(affinity, "parse_affinity", meanwhile)
    affinity.get_affinity()
    other.join(100)
    assert affinity.get_affinity() == "none"


def test_auto_is_what_programs_start_with():
    assert lc.get_affinity() == "auto"


def test_a_list_is_a_policy():
    cpus = affinity.topology().cpus
    lc.set_affinity(list(cpus))
    assert lc.get_affinity() == cpus
    lc.set_affinity(cpus[-1:])
    assert lc.get_affinity() == cpus[-1:]


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ("close", ValueError),
        ("", ValueError),
        ("Compact", ValueError),
        ("0-1", ValueError),
        (1.0, TypeError),
        (0, TypeError),
        (None, TypeError),
        ({0, 1}, TypeError),
        ([], ValueError),
        ([-1], ValueError),
        ([0.0], TypeError),
        (["0"], TypeError),
        ([True], TypeError),
        ([10**6], ValueError),
    ],
)
def test_nonsense_is_refused_by_name(policy, kind):
    lc.set_affinity("spread")
    with pytest.raises(kind, match=r"^policy: got"):
        lc.set_affinity(policy)
    assert lc.get_affinity() == "spread"


def test_a_cpu_of_others_is_refused_and_those_of_this_process_are_told(made_up):
    made_up("slurm-cpuset")
    usable = affinity.topology().cpus
    other = next(cpu for cpu in range(usable[-1]) if cpu not in usable)
    with pytest.raises(ValueError, match=rf"got \[{other}\], expected .*{usable[-1]}"):
        lc.set_affinity([other])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", "auto"), ("none", "none"), (" Spread\n", "spread"), ("0-2,5", (0, 1, 2, 5))],
)
def test_the_environment_sets_the_policy(monkeypatch, made_up, text, expected):
    made_up("ryzen-7-5800x")
    monkeypatch.setenv(affinity.ENVIRONMENT, text)
    assert lc.get_affinity() == expected
    lc.set_affinity("compact")  # comes first
    assert lc.get_affinity() == "compact"


@pytest.mark.parametrize("text", ["close", "0-", "3-1", "0;1", "1000000"])
def test_nonsense_in_the_environment_is_refused_by_name_when_it_is_needed(monkeypatch, text):
    monkeypatch.setenv(affinity.ENVIRONMENT, text)
    work = works(1)[0]
    for ask_for_it in (lc.get_affinity, lambda: affinity.places(2), work.run):
        with pytest.raises(ValueError, match=rf"^{affinity.ENVIRONMENT}: got"):
            ask_for_it()
    monkeypatch.setenv(affinity.ENVIRONMENT, "none")
    assert same(work.run(), work.run())


# Where threads are to be on other machines


@pytest.mark.parametrize("name", ["xeon-6130-x2", "epyc-7302-x2-nps4", "rk3588", "core-i7-12700k"])
def test_auto_binds_when_threads_fill_the_cores(made_up, name):
    machine = made_up(name)
    cores, cpus = len(machine.cores), len(machine.cpus)
    for threads in (1, 2, cores - 1, cpus + 1, 3 * cpus):
        assert affinity.places(threads) is None
    for threads in {cores, cpus}:
        assert affinity.places(threads) == placement(machine, "compact", threads)
    assert {core_of(machine)[cpu] for cpu in affinity.places(cores)} == set(machine.cores)


@pytest.mark.parametrize("name", ["xeon-6130-x2", "power9-ac922", "kvm-bare"])
@pytest.mark.parametrize("policy", ["compact", "spread"])
def test_named_policies_bind_any_number_of_threads_that_have_a_cpu(made_up, name, policy):
    machine = made_up(name)
    lc.set_affinity(policy)
    for threads in range(1, len(machine.cpus) + 1):
        assert affinity.places(threads) == placement(machine, policy, threads)
    assert affinity.places(len(machine.cpus) + 1) is None


def test_none_binds_nobody(made_up):
    machine = made_up("xeon-6130-x2")
    lc.set_affinity("none")
    for threads in (1, 2, len(machine.cores), len(machine.cpus)):
        assert affinity.places(threads) is None
        assert affinity.nodes(threads) == (0,) * threads


def test_a_list_binds_as_many_threads_as_it_has_cpus(made_up):
    made_up("xeon-6130-x2")
    lc.set_affinity([5, 3, 40, 3])
    assert [affinity.places(threads) for threads in (1, 2, 4)] == [(5,), (5, 3), (5, 3, 40, 3)]
    assert affinity.places(5) is None


def test_pairs_are_siblings(made_up):
    machine = made_up("xeon-6130-x2")
    places = affinity.places(len(machine.cpus), pairs=True)
    cores = core_of(machine)
    assert sorted(places) == sorted(machine.cpus)
    assert all(cores[one] == cores[two] for one, two in zip(places[::2], places[1::2], strict=True))
    assert affinity.siblings()
    assert affinity.cores() == len(machine.cores)
    made_up("core-i7-12700k")  # some of its cores have one thread
    assert not affinity.siblings()


def test_nodes_are_counted_from_0_without_gaps(made_up):
    machine = made_up("power9-ac922")  # nodes 0 and 8
    assert len(machine.numa_nodes) == 2
    half = len(machine.cores) // 2
    assert affinity.nodes(2 * half) == (0,) * half + (1,) * half
    lc.set_affinity("spread")
    assert affinity.nodes(4) == (0, 0, 1, 1)
    first, second = (node.cpus for node in machine.numa_nodes)
    lc.set_affinity([*second[:3], *first[:1]])
    assert affinity.nodes(3) == (0, 0, 0)  # all on one node, whichever
    assert affinity.nodes(4) == (1, 1, 1, 0)


# What the kernel makes of it


@several_cores
def test_threads_that_fill_the_cores_have_one_each():
    mask = os.sched_getaffinity(0)
    crew = enter(CORES)
    assert [len(cpus) for cpus in crew] == [1] * (CORES - 1)
    places = affinity.places(CORES)
    assert [cpu for cpus in crew for cpu in cpus] == list(places[1:])
    cores = core_of(affinity.topology())
    assert len({cores[cpu] for cpu in places}) == CORES
    assert masks()[: CORES - 1] == crew  # and keep them
    assert os.sched_getaffinity(0) == mask


@several_cores
def test_threads_that_do_not_fill_the_cores_are_free(new_team):
    mask = os.sched_getaffinity(0)
    for threads in {1, CORES - 1}:
        assert enter(threads) == [mask] * (threads - 1)
    enter(CORES)
    enter(1)
    assert masks() == [mask] * (CORES - 1)


@several_cores
def test_every_thread_is_bound_anew_when_their_number_changes(new_team):
    mask = os.sched_getaffinity(0)
    a, b = affinity.topology().cpus[:2]
    lc.set_affinity([a, b, b, a])
    assert enter(2) == [{b}]
    assert enter(4) == [{b}, {b}, {a}]
    # One more than the list has CPUs: nobody is left bound, not even who was before.
    assert enter(5) == [mask] * 4
    assert enter(3) == [{b}, {b}]
    assert enter(6) == [mask] * 5
    assert enter(4) == [{b}, {b}, {a}]
    lc.set_affinity([b, a])
    assert enter(2) == [{a}]


@several_cores
def test_none_frees_all_threads():
    mask = os.sched_getaffinity(0)
    enter(CORES)
    lc.set_affinity("none")
    enter(2)
    assert masks() == [mask] * len(teams.team().started)


def test_threads_work_where_they_are_bound():
    if CORES < 2 or not hasattr(os, "sched_setaffinity"):
        pytest.skip("one core only: nothing to choose")
    getcpu = ctypes.cast(ctypes.CDLL(None).sched_getcpu, ctypes.c_void_p).value
    places, mask = affinity.places(CORES), os.sched_getaffinity(0)
    cpus = np.zeros(CORES, np.int64)
    for attempt in range(20):
        elsewhere = places[1 + attempt % (CORES - 1)]
        os.sched_setaffinity(0, {elsewhere})  # come from somewhere else
        os.sched_setaffinity(0, mask)
        cpus[:] = -1
        with parallel_region(CORES) as team:
            _everywhere(team, getcpu, cpus)
        assert tuple(cpus[1:]) == places[1:]
        assert os.sched_getaffinity(0) == mask


@several_cores
def test_the_one_that_calls_is_put_on_its_core(monkeypatch):
    # And then it is free: where it computes is up to the kernel again.
    home, mask = affinity.places(CORES)[0], os.sched_getaffinity(0)
    enter(CORES)
    real, cpu, seen = os.sched_setaffinity, affinity._getcpu(), []

    def watched(thread, cpus):
        real(thread, cpus)
        seen.append((thread, set(cpus), cpu()))

    monkeypatch.setattr(os, "sched_setaffinity", watched)
    for found, moves in ((home, False), (affinity.places(CORES)[1], True)):
        seen.clear()
        monkeypatch.setattr(affinity, "_current_cpu", lambda found=found: found)
        enter(CORES)
        if moves:
            assert seen[0] == (0, {home}, home)
            assert seen[1][:2] == (0, mask)
        assert len(seen) == 2 * moves


@several_cores
def test_what_the_program_starts_is_as_free_as_before():
    mask = sorted(os.sched_getaffinity(0))
    enter(CORES)
    found = []
    thread = threading.Thread(target=lambda: found.append(sorted(os.sched_getaffinity(0))))
    thread.start()
    thread.join()
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert [*found, child.stdout.strip()] == [mask, str(mask)]


@several_cores
def test_a_kernel_that_refuses_is_told_once_and_nothing_is_bound(monkeypatch, new_team):
    mask = os.sched_getaffinity(0)
    lc.set_num_threads(CORES)
    jobs = works(len(lc.algorithms()))
    expected = [work.run() for work in jobs]
    enter(1)
    generation, real = affinity.generation(), os.sched_setaffinity
    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.warns(RuntimeWarning, match="refuses to bind threads") as told:
        assert same(jobs[0].run(), expected[0])
    assert len(told) == 1
    assert affinity.generation() > generation  # plans for nodes are made anew
    assert os.strerror(errno.EINVAL) in affinity.refusal()
    # Warnings are errors here: there is none any more.
    assert all(same(work.run(), right) for work, right in zip(jobs, expected, strict=True))
    assert masks() == [mask] * (CORES - 1)
    monkeypatch.setattr(os, "sched_setaffinity", real)
    lc.set_affinity("compact")
    assert affinity.refusal() is None
    assert enter(CORES) == [{cpu} for cpu in affinity.places(CORES)[1:]]


@several_cores
def test_a_kernel_that_refuses_one_thread_leaves_none_bound(monkeypatch, new_team):
    mask = os.sched_getaffinity(0)
    a, b = affinity.topology().cpus[:2]
    enter(4)
    real, last = os.sched_setaffinity, teams.team().started[-1].native_id

    def refuse_last(thread, cpus):
        return refuse() if thread == last and len(cpus) == 1 else real(thread, cpus)

    monkeypatch.setattr(os, "sched_setaffinity", refuse_last)
    lc.set_affinity([a, b, a, b])
    with pytest.raises(RuntimeWarning, match="refuses"):  # as an error, of which nothing depends
        enter(4)
    assert masks() == [mask] * 3
    assert enter(4) == [mask] * 3


def test_systems_that_bind_nothing_work_in_silence(monkeypatch):
    lc.set_num_threads(3)
    jobs = works(len(lc.algorithms()))
    expected = [work.run() for work in jobs]
    lc.set_affinity("none")
    enter(1)
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    for policy in affinity.NAMES:
        lc.set_affinity(policy)
        assert affinity.places(3) is None
        assert all(same(work.run(), right) for work, right in zip(jobs, expected, strict=True))
        assert affinity.set_share(None) is None
