"""Collectives that are generators, and the engine that moves them."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.link import Link
from lowerconv.parallel.comm.waiting import wait_until

from ...long import long_but

PROGRAMS = Path(__file__).parents[1] / "programs"


@pytest.mark.parametrize("ranks", long_but([2, 5], [1, 2, 3, 4, 5]))
def test_every_collective(mpiexec, ranks):
    seed = 20 + ranks
    print("seed", seed)
    run = mpiexec(ranks, PROGRAMS / "collectives.py", ranks, seed)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == ranks


@pytest.mark.skipif("LOWERCONV_LARGE" not in os.environ, reason="needs 7 GB: LOWERCONV_LARGE=1")
def test_more_than_two_to_the_31_elements(mpiexec):
    run = mpiexec(2, PROGRAMS / "large.py")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == 2


@pytest.mark.parametrize("name", ALLREDUCE)
def test_one_process_alone_sends_nothing(name):
    engine, array = Engine(threaded=True), np.arange(5.0)
    engine.run(lambda link: ALLREDUCE[name](link, array), name)
    assert array.tolist() == [0, 1, 2, 3, 4]
    engine.close()


def test_memory_of_other_layouts_is_refused():
    with pytest.raises(ValueError, match="array: not contiguous"):
        Link(None, 0).send(np.zeros((4, 4))[:, 1], 0)


def test_waiting_tells_whoever_has_patience_and_does_not_steal_the_core():
    asked = []

    class Patience:
        def check(self, what: str, seconds: float) -> None:
            asked.append((what, seconds))
            if seconds > 0.2:
                raise TimeoutError(what)

        def ended(self) -> None:
            asked.append(("ended", 0.0))

    before = time.process_time()
    with pytest.raises(TimeoutError, match="a message"):
        wait_until(lambda: False, "a message", Patience())
    assert time.process_time() - before < 0.15
    assert asked[-2][1] > 0.2
    assert asked[-1] == ("ended", 0.0)


def test_an_idle_engine_sleeps(mpiexec, tmp_path):
    program = tmp_path / "idle.py"
    program.write_text(
        "import time\n"
        "from mpi4py import MPI\n"
        "from lowerconv.parallel.comm.engine import Engine\n"
        "engine = Engine(MPI.COMM_WORLD.Dup(), threaded=True)\n"
        "before = time.process_time()\n"
        "time.sleep(1)\n"
        "assert time.process_time() - before < 0.2\n"
        "engine.close()\n"
        "print('asleep')\n"
    )
    run = mpiexec(2, program)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("asleep") == 2
