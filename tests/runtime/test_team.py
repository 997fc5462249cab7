"""The team of threads: every worker works exactly once, sleeps meanwhile, and ends with Python."""

import os
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import pytest
from numba import carray, cfunc, njit

import lowerconv as lc
from lowerconv.runtime import team as teams
from lowerconv.runtime.launch import launch, pointer, run_on_team
from lowerconv.runtime.threads import parallel_region

from ..long import LONG
from .children import PATIENCE, PROGRAMS, complaints, environment, program, python

pytestmark = pytest.mark.usefixtures("watchdog")

WORKERS = (1, 2, 3, 7, 16, 64)
SLOW = 97  # of the shares is one that takes longer than threads stay awake


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


@njit
def _burn(turns):
    """Take some time, whatever a compiler thinks of it."""
    state = np.uint64(turns + 1)
    for _ in range(turns):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return state


@cfunc("void(int64, int64)")
def _mark(job, worker):
    """Add one to the worker's number in the row that the job is, at once or later than others."""
    row = carray(pointer(job), 64 + 1, np.int64)
    turns = (row[64] * (worker + 1)) % 1009
    if turns % SLOW == 0:
        turns = 300_000
    if _burn(turns) != 0:
        row[worker] += 1


def test_every_worker_runs_exactly_once_per_launch():
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    count = 3000
    crews = rng.choice(WORKERS, count, p=[0.1, 0.25, 0.25, 0.25, 0.1, 0.05])
    # Seconds: none, about as long as threads stay awake, and until all of them sleep.
    pauses = rng.choice([0, 1e-4, 3e-3], count, p=[0.8, 0.15, 0.05]) * rng.uniform(0.5, 1.5, count)
    rows = np.zeros((count, max(WORKERS) + 1), np.int64)
    rows[:, -1] = rng.integers(1, 10**6, count)
    for row, workers, pause in zip(rows, crews.tolist(), pauses.tolist(), strict=True):
        with parallel_region(workers) as team:
            launch(team, _mark.address, row.ctypes.data, workers)
        # Whoever waits for the others has waited for all.
        assert row[:workers].tolist() == [1] * workers
        if pause:
            time.sleep(pause)
    # Nobody else has done anything, and nobody did anything late.
    expected = np.arange(max(WORKERS)) < crews[:, None]
    assert np.array_equal(rows[:, :-1], expected)


def test_fewer_workers_than_threads_leave_the_others_alone():
    row = np.zeros(65, np.int64)
    with parallel_region(16) as team:
        for workers in (16, 1, 5, 2, 15):
            row[:] = 0
            launch(team, _mark.address, row.ctypes.data, workers)
            assert row.tolist() == [1] * workers + [0] * (65 - workers)


class Pair(NamedTuple):
    """As geometries and blockings travel to compiled code."""

    first: int
    second: float


@njit
def _body(worker, workers, single, double, numbers, pair, yes, no, factor, empty):
    for row in range(worker, len(single), workers):
        for column in range(single.shape[1]):
            single[row, column] += numbers[0] * row + numbers[1] * column
        double[row] = pair.first * factor + pair.second
        if yes and not no:
            double[row] += 1000 * (len(empty) + 1)
    double[-1 - worker] = workers


@njit(nogil=True)
def _everything(team, single, double, numbers, pair, yes, no, factor, empty):
    run_on_team(team, _body, (single, double, numbers, pair, yes, no, factor, empty))
    run_on_team(team, _body, (single, double, numbers, pair, yes, no, factor, empty))


@pytest.mark.parametrize("threads", WORKERS)
def test_what_is_spread_arrives_everywhere(threads):
    single, double = np.zeros((41, 5), np.float32), np.zeros(41 + 64)
    arguments = (2, 3), Pair(7, 0.25), True, False, 0.5, np.empty(0, np.float32)
    with parallel_region(threads) as team:
        _everything(team, single, double, *arguments)
    rows, columns = np.indices(single.shape)
    assert np.array_equal(single, 2 * (2 * rows + 3 * columns))
    assert double[:41].tolist() == [7 * 0.5 + 0.25 + 1000] * 41
    assert double[41:].tolist() == [0] * (64 - threads) + [threads] * threads


@pytest.mark.parametrize("algorithm", lc.algorithms())
def test_more_threads_than_cores(algorithm):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 16, 14, 14)).astype(np.float32)
    w = rng.standard_normal((24, 16, 3, 3)).astype(np.float32)
    results = []
    for threads in (1, (os.cpu_count() or 1) + 5):
        lc.set_num_threads(threads)
        results.append(lc.conv2d(x, w, padding=1, algorithm=algorithm))
    assert np.array_equal(*results)


IDLE = """
import os, time, numpy as np
import lowerconv as lc
lc.set_num_threads(6)
x, w = np.ones((4, 16, 20, 20), "f4"), np.ones((16, 16, 3, 3), "f4")
for algorithm in ("lowering", "fused", "paired"):
    lc.conv2d(x, w, algorithm=algorithm)
time.sleep(0.1)  # they are awake for a moment
begin = time.process_time()
time.sleep(0.5)
print(time.process_time() - begin)
lc.conv2d(x, w)
"""


def test_idle_threads_take_no_time():
    # One thread that looked for work all the time would take 0.5 seconds.
    assert float(python("-c", IDLE)) < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="waiting for memory is tested where it is")
def test_idle_threads_sleep_until_they_are_needed():
    with parallel_region(8):
        pass
    crew = [t.native_id for t in threading.enumerate() if t.name.startswith("lowerconv-")]
    assert len(crew) >= 7
    deadline = time.monotonic() + PATIENCE
    awake = set(crew)
    while awake and time.monotonic() < deadline:
        for thread in crew:
            with open(f"/proc/self/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "S":
                    awake.discard(thread)
    assert not awake
    row = np.zeros(65, np.int64)
    with parallel_region(8) as team:
        launch(team, _mark.address, row.ctypes.data, 8)
    assert row[:8].tolist() == [1] * 8


def test_threads_are_started_once():
    with parallel_region(5):
        before = threading.active_count()
    for workers in (5, 2, 5, 1, 4):
        with parallel_region(workers) as team:
            assert team.threads == workers
    assert threading.active_count() == before


@pytest.mark.parametrize("pause", [0, 0.01], ids=["awake", "asleep"])
@pytest.mark.parametrize("threads", [1, 2, 3, 16])
def test_a_team_that_is_stopped_ends_every_thread(monkeypatch, threads, pause):
    monkeypatch.setattr(teams, "PATIENCE", PATIENCE)
    team = teams.Team()
    handle = team.handle(threads)
    row = np.zeros(65, np.int64)
    launch(handle, _mark.address, row.ctypes.data, threads)
    time.sleep(pause)
    team.stop()
    assert len(team.started) == threads - 1
    assert not any(thread.is_alive() for thread in team.started)


# What a program may do last, other threads of it included.
WAYS = (
    "busy",
    "asleep",
    "sys-exit",
    "sys-exit-in-a-thread",
    "a-thread-convolves",
    "daemon-convolves",
    "convolve-at-exit",
)


def test_python_ends_silently_whatever_was_done_last():
    ways = list(WAYS)
    while ways:  # two at a time
        processes = []
        for way in (ways.pop() for _ in range(min(2, len(ways)))):
            command = [sys.executable, "-X", "faulthandler", str(PROGRAMS / "exits.py"), way]
            processes.append(
                subprocess.Popen(
                    command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
        for process in processes:
            out, err = process.communicate(timeout=PATIENCE)
            assert (process.returncode, out, complaints(err.decode())) == (0, b"", ""), process.args


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Python forks nowhere else")
def test_forked_children_end_silently_however_often():
    ways = WAYS * (4 if LONG else 2)
    assert program("exits.py", *ways) == f"{len(ways)} ended"


COMPILED = """
import numba.core.event as event
compiled = []
class Listener(event.Listener):
    def on_start(self, e): compiled.append(e)
    def on_end(self, e): pass
event.register("numba:compile", Listener())
import sys
import numpy as np, lowerconv as lc
lc.set_num_threads(3)
x, w = np.ones((2, 3, 8, 8), "f4"), np.ones((2, 3, 3, 3), "f4")
for algorithm in sys.argv[1:]:
    y = lc.conv2d(x, w, algorithm=algorithm)
    assert np.allclose(y, 27), algorithm
    lc.conv2d_input_grad(y, w, x.shape, algorithm=algorithm)
    lc.conv2d_weight_grad(y, x, w.shape, algorithm=algorithm)
print(len(compiled))
"""


def test_a_second_process_compiles_nothing(tmp_path):
    caches = {
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
        "LOWERCONV_CACHE_DIR": str(tmp_path / "lowerconv"),
    }
    names = lc.algorithms() if LONG else ("pipelined",)
    assert int(python("-c", COMPILED, *names, **caches)) > 0
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.suffix for path in files} >= {".nbc", ".o"}
    assert int(python("-c", COMPILED, *names, **caches)) == 0
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert again == files
