"""Threads of the system, where those of Python are something else; beside loops of events."""

import _thread
import importlib.util
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.runtime import native
from lowerconv.runtime import team as teams

from ..long import drawn
from .children import PATIENCE, PROGRAMS, environment, program, python

pytestmark = pytest.mark.usefixtures("watchdog")


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


@pytest.fixture
def greenlets(monkeypatch):
    """Have Python's threads wait for the one that starts them: as greenlets do, for ever."""

    def spawn(function, arguments=(), kwargs=None):
        return 1

    teams.end()
    for name in ("start_new_thread", "start_joinable_thread"):
        for module, prefix in ((_thread, ""), (threading, "_")):
            if hasattr(module, prefix + name):
                monkeypatch.setattr(module, prefix + name, spawn)
    yield
    teams.end()


def test_kernels_run_on_threads_of_the_system(greenlets):
    assert native.replaced()
    lc.set_num_threads(3)
    x, w = np.ones((4, 8, 9, 9), np.float32), np.ones((8, 8, 3, 3), np.float32)
    for algorithm in lc.algorithms():
        assert np.allclose(lc.conv2d(x, w, algorithm=algorithm), 72)
    crew = teams.team().started
    assert len(crew) >= 2
    assert len({thread.native_id for thread in crew} | {threading.get_native_id()}) == len(crew) + 1
    teams.end()
    for thread in crew:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_locks_are_those_of_the_system(greenlets):
    signal, done = native.Signal(), []
    thread = native.make(lambda: done.append(signal.wait(PATIENCE)), "waits")
    native.start(thread)
    assert thread.is_alive() and thread.name == "waits"
    thread.join(0.01)
    assert thread.is_alive()  # it was not waited for any longer
    signal.set()
    signal.set()
    thread.join()
    assert done == [True]
    while signal.wait(0):  # where it was set twice before it was waited for
        pass
    signal.set()
    assert signal.wait(0) and not signal.wait(0)
    begin = time.monotonic()
    native.sleep(0.02)
    assert time.monotonic() - begin > 0.015


def test_gevent(rng):
    pytest.importorskip("gevent", reason="gevent is not installed")
    for when in drawn(rng, ("before", "after", "between"), 1):
        assert program("green.py", "gevent", when) == "right", when


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_eventlet(when):
    if importlib.util.find_spec("eventlet") is None:
        pytest.skip("eventlet is not installed")
    command = [sys.executable, str(PROGRAMS / "green.py"), "eventlet", when]
    # It complains of itself, and of locks that it cannot replace.
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


LOOP = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import lowerconv as lc

lc.set_num_threads(3)
x, w = np.ones((4, 8, 9, 9), "f4"), np.ones((8, 8, 3, 3), "f4")

def convolve():
    return bool((lc.conv2d(x, w) == 72).all())

async def main():
    assert convolve()  # in the loop itself
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(4) as pool:
        assert all(await asyncio.gather(*(loop.run_in_executor(pool, convolve) for _ in range(20))))
    assert all(await asyncio.gather(*(asyncio.to_thread(convolve) for _ in range(8))))
    print("right")

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_loops_of_events(loop):
    if loop != "asyncio" and importlib.util.find_spec(loop) is None:
        pytest.skip(f"{loop} is not installed")
    assert python("-c", LOOP, loop) == "right"


CELLS = [
    "%load_ext autoreload\n%autoreload 2\n"
    "import asyncio, importlib, os, signal, threading, time\n"
    "import numpy as np, lowerconv as lc\nfrom lowerconv.runtime import native, team, threads\n"
    "lc.set_num_threads(3)\n"
    "x, w = np.ones((4, 8, 9, 9), 'f4'), np.ones((8, 8, 3, 3), 'f4')\n"
    "assert (lc.conv2d(x, w) == 72).all()",
    "try:\n"
    "    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    "    while True: lc.conv2d(x, w)\n"
    "except KeyboardInterrupt: pass\n"
    "assert (lc.conv2d(x, w) == 72).all()",
    "assert ((await asyncio.to_thread(lc.conv2d, x, w)) == 72).all()",
]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_a_notebook():
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    client.NotebookClient(notebook, timeout=PATIENCE, kernel_name="python3").execute(
        env=environment()
    )


class Watched:
    """A thread that only notes the stack that it would have; Python tells by setting another."""

    def start(self):
        self.stack = threading.stack_size()
        threading.stack_size(self.stack)


@pytest.mark.parametrize(
    ("program", "system", "expected"),
    [
        (1 << 15, 1 << 23, native.STACK),
        (1 << 23, 1 << 23, 1 << 23),
        (0, 1 << 23, 0),  # the system's
        (0, 1 << 16, native.STACK),
        (1 << 23, 1 << 16, 1 << 23),
    ],
)
def test_stacks_are_large_enough_whatever_is_set(monkeypatch, program, system, expected):
    monkeypatch.setattr(native, "_system_stack", lambda: system)
    thread, before = Watched(), threading.stack_size(program)
    try:
        native.start(thread)
        after = threading.stack_size(program)
    finally:
        threading.stack_size(before)
    assert (thread.stack, after) == (expected, program)
