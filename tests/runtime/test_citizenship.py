"""The library beside whatever else is in the process: threads, forks, BLAS, numba, PyTorch."""

import ctypes
import importlib.util
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

import lowerconv as lc
from lowerconv.conv.blas import lowered, pipelined
from lowerconv.ops import blas, matmul

from ..long import LONG
from .children import PATIENCE, PROGRAMS, environment, program, python
from .convolutions import Work, same, works

pytestmark = pytest.mark.usefixtures("watchdog")

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="Python forks nowhere else")
BLAS_ALGORITHMS = ["lowering", "pipelined", "paired"]


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


@pytest.mark.parametrize("count", [4, 9])
def test_python_threads_convolve_at_once(count):
    lc.set_num_threads(3)
    jobs = [works(len(lc.algorithms()), seed) for seed in range(count)]
    expected = [[work.run() for work in mine] for mine in jobs]
    begin, wrong = threading.Barrier(count), []

    def convolve(number):
        begin.wait()
        for _ in range(3):
            for work, right in zip(jobs[number], expected[number], strict=True):
                if not same(work.run(), right):
                    wrong.append(work.algorithm)

    crew = [threading.Thread(target=convolve, args=[number]) for number in range(count)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert not wrong


@forks
@pytest.mark.parametrize(
    ("way", "rounds"), [("fork", 4 if LONG else 2), ("multiprocessing-fork", 2), ("spawn", 1)]
)
def test_children_convolve_whose_parent_is_inside_a_convolution(way, rounds):
    # Python warns of forks beside threads, since 3.12.
    path = str(PROGRAMS / "forks.py")
    codes = (
        python("-W", "ignore::DeprecationWarning", path, way, str(rounds)).strip("[]").split(", ")
    )
    assert set(codes) == {"0"}
    assert len(codes) >= 3


@forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_fork_waits_until_nobody_is_inside(monkeypatch):
    """Otherwise a child would inherit what is half done: BLAS held at one thread, packed copies."""
    inside, seen = threading.Event(), []
    (work,) = (work for work in works(len(lc.algorithms())) if work.algorithm == "lowering")

    class Slow(lowered.LoweredForward):
        def run(self, *arguments):
            inside.set()
            time.sleep(0.3)
            super().run(*arguments)
            seen.append("done")

    monkeypatch.setitem(lowered.PASSES, "forward", Slow)
    plan = lc.plan_conv2d(work.x.shape, work.w.shape, padding=work.padding, algorithm="lowering")
    thread = threading.Thread(target=plan, args=(work.x, work.w))
    thread.start()
    inside.wait()
    child = os.fork()
    if not child:
        os._exit(len(seen))
    _, status = os.waitpid(child, 0)
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 1


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_parallel_loop_of_numba_convolves(layer):
    if layer == "omp":
        pytest.importorskip("numba.np.ufunc.omppool", exc_type=ImportError)
    assert program("inside_numba.py", layer, NUMBA_NUM_THREADS="2") == "right"


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.parametrize("order", ["first", "last"])
def test_pytorch_and_the_library_leave_each_other_alone(order):
    assert program("beside_torch.py", order) == "right"


def blas_threads() -> dict[str, int]:
    """Return the threads of every BLAS in this process."""
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    return {library.filepath: library.get_num_threads() for library in libraries}


def of_algorithm(name: str) -> Work:
    return next(work for work in works(len(lc.algorithms())) if work.algorithm == name)


def in_a_thread(function, *arguments):
    """Return what a function returns in another Python thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture
def two_blas_threads():
    """Have every BLAS use two threads, and nobody be in charge of that."""
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        assert set(before.values()) == {2}
        yield before


here_and_there = pytest.mark.parametrize(
    "call", [lambda function, *arguments: function(*arguments), in_a_thread], ids=["here", "there"]
)


GEMM = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)


@here_and_there
@pytest.mark.parametrize("algorithm", BLAS_ALGORITHMS)
def test_blas_has_its_threads_again_after_every_call(
    monkeypatch, algorithm, call, two_blas_threads
):
    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    seen = []

    @GEMM
    def look(*arguments):
        """Instead of multiplying, on any of the team's threads."""
        seen.append({library.filepath: library.get_num_threads() for library in libraries})

    address = ctypes.cast(look, ctypes.c_void_p).value

    def watched(dtype):
        return blas.blas(dtype)._replace(gemm=address)

    monkeypatch.setattr(matmul, "blas", watched)
    monkeypatch.setattr(pipelined, "blas", watched)
    work = of_algorithm(algorithm)
    call(work.run)
    assert blas_threads() == two_blas_threads
    # Meanwhile SciPy's BLAS, which works on our threads, has none of its own; NumPy's is not ours.
    assert len(seen) >= 3
    for counts in seen:
        for path, count in counts.items():
            if "scipy.libs" in path:
                assert count == 1
            elif "numpy.libs" in path:
                assert count == 2


@here_and_there
@pytest.mark.parametrize("limit", [1, 3])
@pytest.mark.parametrize("algorithm", BLAS_ALGORITHMS)
def test_limits_of_the_program_hold(algorithm, limit, call):
    # Of the Python threads, the first that sets BLAS's may be the only one who can (threadpoolctl
    # 3.8): that must never be one that only convolves.
    convolved, stay = threading.Event(), threading.Event()

    def convolve_and_stay():
        of_algorithm(algorithm).run()
        convolved.set()
        stay.wait()

    def limited():
        with threadpool_limits(limits=limit, user_api="blas"):
            of_algorithm(algorithm).run()
            return blas_threads()

    thread = threading.Thread(target=convolve_and_stay)
    thread.start()
    convolved.wait()
    try:
        assert set(call(limited).values()) == {limit}
    finally:
        stay.set()
        thread.join()


COUNT_BLAS = """
import numpy, scipy.linalg, lowerconv as lc, numpy as np
from threadpoolctl import ThreadpoolController
def count():
    return {lib.get_num_threads() for lib in ThreadpoolController().select(user_api="blas")
            .lib_controllers}
before = count()
lc.set_num_threads(3)
for algorithm in lc.algorithms():
    y = lc.conv2d(np.ones((4, 8, 9, 9), "f4"), np.ones((8, 8, 3, 3), "f4"), algorithm=algorithm)
    assert np.allclose(y, 72)
assert count() == before
print(*before, lc.get_num_threads())
"""


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_threads_that_the_environment_asks_blas_for(name):
    given = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "") | {name: "1"}
    assert python("-c", COUNT_BLAS, **given) == "1 3"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_an_interrupt_ends_it_and_leaves_everything_as_it_was():
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    pauses, times = random.Random(seed), 12
    command = [sys.executable, str(PROGRAMS / "interrupts.py"), str(times)]
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        for _ in range(times):
            assert process.stdout.readline() == "convolving\n", process.stderr.read()
            time.sleep(pauses.uniform(0.005, 0.05))
            process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=PATIENCE)
        timer.cancel()
    # As Python ends when nobody catches it: by the signal, which shells show as 130.
    assert process.returncode == -signal.SIGINT
    assert complaint.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such alarms")
def test_an_interrupt_at_any_moment_locks_nobody_out():
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    assert program("alarms.py", str(seed), "400") == "right"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such alarms")
def test_an_interrupt_at_any_moment_locks_nobody_out_of_a_network():
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    assert program("network_alarms.py", str(seed), "400") == "right"


SURROUNDINGS = """
import os, sys, threading
import numpy, scipy.linalg, numba
def threads():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0
variables, python, all_threads = dict(os.environ), threading.active_count(), threads()
import lowerconv as lc
import lowerconv.nn
assert threading.active_count() == python == 1, threading.enumerate()
assert threads() == all_threads
lc.set_num_threads(3)
x, w = numpy.ones((4, 8, 9, 9), "f4"), numpy.ones((8, 8, 3, 3), "f4")
for algorithm in lc.algorithms():
    y = lc.conv2d(x, w, algorithm=algorithm)
    lc.conv2d_input_grad(y, w, x.shape, algorithm=algorithm)
    lc.conv2d_weight_grad(y, x, w.shape, algorithm=algorithm)
assert threading.active_count() == 3, threading.enumerate()
assert dict(os.environ) == variables
print("right")
"""


def test_importing_starts_no_thread_and_nothing_changes_the_environment():
    assert python("-c", SURROUNDINGS) == "right"
