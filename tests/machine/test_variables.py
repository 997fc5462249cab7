"""The number of threads that the environment asks for: heard, bounded for ranks, never silent."""

import os
import subprocess
import sys
import warnings

import pytest

import lowerconv as lc
from lowerconv.machine import variables
from lowerconv.machine.topology import usable_threads
from lowerconv.machine.variables import OPENMP, OWN
from lowerconv.parallel import Communicator
from lowerconv.parallel.comm import communicator
from lowerconv.runtime import affinity, threads

from ..long import drawn, long_rows_but
from ..runtime.children import PATIENCE, environment, python
from .machines import unfold


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Have the number be found anew, and nothing be set."""
    for name in (OWN, OPENMP):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_num_threads", None)
    threads._default_threads.cache_clear()
    monkeypatch.setattr(variables, "_told", False)
    yield
    threads._default_threads.cache_clear()


@pytest.mark.parametrize(
    ("own", "openmp", "number", "source"),
    [
        (None, None, None, threads.CORES),
        ("", "", None, threads.CORES),
        ("3", None, 3, OWN),
        ("3", "5", 3, OWN),
        (" 1024 ", "5", 1024, OWN),
        ("+2", None, 2, OWN),
        ("", "5", 5, OPENMP),
        (None, "1", 1, OPENMP),
        (None, "4,2", 4, OPENMP),
        (None, " 4 , 2,1", 4, OPENMP),
        (None, "99999", 1024, OPENMP),
        ("3", "nonsense", 3, OWN),
    ],
)
def test_who_is_heard(monkeypatch, own, openmp, number, source):
    for name, value in ((OWN, own), (OPENMP, openmp)):
        if value is not None:
            monkeypatch.setenv(name, value)
    expected = usable_threads() if number is None else number
    assert (lc.get_num_threads(), threads.threads_source()) == (expected, source)
    # Read once, and not after `set_num_threads`.
    monkeypatch.setenv(OWN, "7")
    assert lc.get_num_threads() == expected
    lc.set_num_threads(2)
    assert (lc.get_num_threads(), threads.threads_source()) == (2, threads.CALLED)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1025", "2,4", "1.5", "1_0", "²", "9" * 5000])
def test_the_own_variable_is_never_ignored(monkeypatch, value):
    monkeypatch.setenv(OWN, value)
    for function in (lc.get_num_threads, lambda: Communicator().threads):
        with pytest.raises(ValueError, match=r"^LOWERCONV_NUM_THREADS: got .* from 1 to 1024"):
            function()
    monkeypatch.setenv(OWN, "2")
    assert lc.get_num_threads() == 2


@pytest.mark.parametrize("value", ["abc", "0", "-1", "4,", "4,x", ",", "1.5", "9" * 5000])
def test_openmp_is_ignored_where_it_is_nonsense(monkeypatch, value):
    monkeypatch.setenv(OPENMP, value)
    with pytest.warns(RuntimeWarning, match=f"^lowerconv: {OPENMP}=.* is ignored") as told:
        assert lc.get_num_threads() == usable_threads()
        assert Communicator().threads == usable_threads()
    assert len(told) == 1


def test_a_warning_that_is_an_error_comes_once(monkeypatch):
    monkeypatch.setenv(OPENMP, "all")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            lc.get_num_threads()
        assert lc.get_num_threads() == usable_threads()


COUNT = """
import lowerconv as lc
import numpy as np
import threading
lc.conv2d(np.ones((4, 8, 9, 9), "f4"), np.ones((8, 8, 3, 3), "f4"))
crew = [t for t in threading.enumerate() if t.name.startswith("lowerconv-")]
print(lc.get_num_threads(), len(crew) + 1)
"""


@pytest.mark.parametrize(("own", "openmp", "number"), [("", "1", 1), ("5", "1", 5), ("", "3", 3)])
def test_so_many_threads_run(own, openmp, number):
    assert python("-c", COUNT, **{OWN: own, OPENMP: openmp}) == f"{number} {number}"


def test_a_process_says_what_is_wrong(rng):
    command = [sys.executable, "-m", "lowerconv"]
    commands = (["info"], ["tune", "--x", "1,3,8,8", "--w", "4,3,3,3"], ["train"])
    for arguments in drawn(rng, commands, 1):
        done = subprocess.run(
            [*command, *arguments],
            env=environment(**{OWN: "abc"}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 1
        assert done.stderr == (
            "lowerconv: error: LOWERCONV_NUM_THREADS: got 'abc', expected an integer from 1 to "
            "1024\n"
        )


def test_threads_that_leave_cores_alone_are_not_bound(monkeypatch):
    monkeypatch.setattr(affinity, "_policy", affinity.AUTO)
    monkeypatch.setenv(OPENMP, "1")
    assert affinity.places(lc.get_num_threads()) is None
    monkeypatch.setattr(threads, "_num_threads", None)
    monkeypatch.setenv(OPENMP, str(2 + os.cpu_count()))  # they take turns
    assert affinity.places(lc.get_num_threads()) is None


# Ranks


@pytest.fixture
def share_of(monkeypatch, tmp_path):
    """Return a function: the threads of each of some ranks that share a stored machine."""

    def shares(name, ranks):
        paths = unfold(tmp_path, name)
        usable = tuple(sorted(paths["usable"]))
        read, online = communicator.read_topology, communicator.online_cpus
        monkeypatch.setattr(
            communicator, "read_topology", lambda usable: read(paths["sysfs"], usable=usable)
        )
        monkeypatch.setattr(communicator, "online_cpus", lambda: online(paths["sysfs"]))
        monkeypatch.setattr(communicator, "cpu_quota", lambda: None)
        found = []
        for rank in range(ranks):
            one = Communicator.__new__(Communicator)
            one._take_share([usable] * ranks, rank)
            found.append(one.threads)
        return found

    return shares


@pytest.mark.parametrize(
    ("own", "openmp", "ranks", "threads"),
    [
        ("", "", 1, [32]),
        ("", "", 3, [11, 11, 10]),
        ("", "2", 3, [2, 2, 2]),
        ("", "11", 3, [11, 11, 10]),
        ("", "32", 4, [8] * 4),  # as PBS sets it for a whole host
        ("", "64", 1, [64]),
        ("20", "2", 3, [20, 20, 20]),
        ("64", "", 1, [64]),
    ],
)
def test_ranks_of_a_host(monkeypatch, share_of, own, openmp, ranks, threads):
    monkeypatch.setenv(OWN, own)
    monkeypatch.setenv(OPENMP, openmp)
    assert share_of("xeon-6130-x2", ranks) == threads


@pytest.mark.parametrize(
    ("variables", "option", "threads"),
    long_rows_but(
        [3],
        [
            ({}, [], None),
            ({OPENMP: "1"}, [], 1),
            ({OWN: "3"}, [], 3),
            ({OWN: "3", OPENMP: "1"}, ["--threads", "2"], 2),
        ],
    ),
)
def test_training_on_ranks(
    monkeypatch, mpiexec, tiny_fashion, tmp_path, variables, option, threads
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    arguments = [
        "--data",
        f"fashion-mnist:{tiny_fashion}",
        "--epochs",
        "1",
        "--out",
        tmp_path / "out",
    ]
    run = mpiexec(2, "-m", "lowerconv", "train", "--model", "lenet", *arguments, *option)
    assert run.returncode == 0, run.stderr
    if threads is not None:
        assert f"ranks 0-1, {threads} thread" in run.stdout


def test_ranks_say_what_is_wrong(monkeypatch, mpiexec, tiny_fashion):
    monkeypatch.setenv(OWN, "none")
    run = mpiexec(
        2, "-m", "lowerconv", "train", "--data", f"fashion-mnist:{tiny_fashion}", timeout=60
    )
    assert run.returncode != 0
    assert run.stderr.count("LOWERCONV_NUM_THREADS: got 'none'") == 1
