"""What goes wrong ends all ranks within seconds, names who it was, and loses nothing that is saved.

A handful of faults by default; LOWERCONV_FAULTS=200 injects so many at random, over all strategies.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from lowerconv.machine.mpi import describe_mpi
from lowerconv.parallel.strategies import STRATEGIES as REGISTERED
from lowerconv.train.checkpoint import LAST, load_checkpoint
from tests.parallel.faults.strikes import (
    ENDED,
    EPOCHS,
    PROGRAM,
    SYNCHRONOUS,
    apart,
    arguments,
    check_ended,
    epochs,
    judge,
    left,
    same,
    strike,
)

from ...long import drawn

STALL = 4.0  # seconds of --stall-timeout: no rank that computes is silent for so long
# ... and then so many until a rank that does not answer is given up, and all are gone.
GIVEN_UP = STALL + 3.0 + ENDED


def ulfm() -> bool:
    """Return whether this MPI can go on when a rank dies."""
    return "Open MPI v5" in str(describe_mpi()["library"])


STRATEGIES = sorted(REGISTERED)
ELASTIC = [name for name in ("data", "tree") if name in REGISTERED]


@pytest.fixture(scope="module")
def unbroken(mpiexec, tiny_fashion, tmp_path_factory):
    """Return a function that returns the directory of a run without faults, once for each."""

    @cache
    def run(strategy: str, ranks: int) -> Path:
        out = tmp_path_factory.mktemp(f"unbroken-{strategy}-{ranks}") / "run"
        outcome = strike(mpiexec, ranks, "", arguments(tiny_fashion, out, strategy))
        assert outcome.status == 0, outcome.text
        return out

    return run


@pytest.fixture
def words(tiny_fashion, tmp_path):
    """Return a function that returns the arguments of a run of a strategy."""
    return lambda strategy, *more: arguments(tiny_fashion, tmp_path / "run", strategy, *more)


def test_an_exception_ends_all_ranks(mpiexec, tiny_fashion, tmp_path, rng):
    for strategy in drawn(rng, STRATEGIES, 2):
        print(strategy)
        words = arguments(tiny_fashion, tmp_path / strategy, strategy)
        outcome = strike(mpiexec, 3, "exception:1:9:0", words)
        check_ended(outcome)
        assert "lowerconv: error on rank 1:\nTraceback" in outcome.text
        assert "ZeroDivisionError: on purpose" in outcome.text
        assert outcome.text.count("Traceback") == 1


def test_an_exception_of_the_communication_ends_all_ranks(mpiexec, words):
    outcome = strike(mpiexec, 3, "thread:2:9:0", words("data", "--overlap", "thread"))
    check_ended(outcome)
    assert "lowerconv: error on rank 2:\nTraceback" in outcome.text
    assert "ZeroDivisionError: on purpose" in outcome.text


def test_one_rank_that_fails_before_training_ends_all(mpiexec, tmp_path):
    """The others are already waiting for it, elsewhere than it expects."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.parallel.comm.mpi_communicator import launched_rank\n"
        "from lowerconv.train import trainer\n"
        "class Together(trainer.Loader):\n"
        "    def __init__(self, *arguments, **options):\n"
        "        from mpi4py import MPI\n"
        "        if launched_rank() == 1: raise OSError('no disk')\n"
        "        MPI.COMM_WORLD.Barrier()\n"
        "        super().__init__(*arguments, **options)\n"
        "trainer.Loader = Together\n"
        f"sys.exit(main(['train', '--out', {str(tmp_path / 'run')!r}]))\n"
    )
    outcome = judge(mpiexec(3, program), tmp_path / "run")
    assert outcome.status != 0
    assert outcome.text.count("lowerconv: error on rank 1: no disk") == 1


@pytest.fixture(scope="module")
def killed(mpiexec, tiny_fashion, tmp_path_factory) -> Path:
    """Return the directory of a run of three ranks that has ended in its second epoch."""
    out = tmp_path_factory.mktemp("killed") / "run"
    outcome = strike(mpiexec, 3, "kill:1:12:0", arguments(tiny_fashion, out, "data"))
    check_ended(outcome)
    assert epochs(out) == 1
    return out


def test_a_killed_run_goes_on(mpiexec, killed, tiny_fashion, unbroken, tmp_path):
    """With as many ranks it ends with the same bits, with others with the same to rounding."""
    for ranks in (2, 3):
        out = tmp_path / f"resumed-{ranks}"
        shutil.copytree(killed, out)
        resumed = strike(mpiexec, ranks, "", arguments(tiny_fashion, out, "data", "--resume"))
        assert resumed.status == 0, resumed.text
        assert apart(unbroken("data", 3), out) < 1e-3
    assert same(unbroken("data", 3), out)


@pytest.mark.parametrize("fault", ["stop", "busy"])
def test_a_rank_that_stalls_is_named(mpiexec, words, fault):
    stop = words("data", "--stall-timeout", STALL)
    outcome = strike(mpiexec, 3, f"{fault}:2:9:0", stop)
    check_ended(outcome, GIVEN_UP)
    says = {
        "stop": "rank 2 on host .* does not answer .*waited .* for bucket [0-9] at step [0-9]+",
        "busy": "rank 2 on host .* does not go on: step 9, computing",
    }
    assert re.search(says[fault], outcome.text), outcome.text
    assert "Traceback" not in outcome.text


def test_a_rank_that_stops_when_all_is_done_is_named(mpiexec, words):
    """MPI's own end would wait for it for ever."""
    stop = words("data", "--stall-timeout", STALL)
    outcome = strike(mpiexec, 3, "stop:0:end:0", stop)
    assert outcome.status != 0
    assert outcome.seconds < GIVEN_UP
    assert "rank 0 on host" in outcome.text
    assert epochs(outcome.out) == EPOCHS


def test_a_full_disk_ends_all_ranks(mpiexec, words):
    outcome = strike(mpiexec, 3, "full:0:save:0", words("data"))
    check_ended(outcome)
    assert "lowerconv: error on rank 0: [Errno 27] File too large" in outcome.text
    assert "Traceback" not in outcome.text
    assert epochs(outcome.out) == 0  # that of before the first epoch is whole
    assert [path.name for path in outcome.out.glob("*.partial")] == []


def damage(out: Path, rng: random.Random) -> None:
    """Change a byte of the last checkpoint, or cut it short."""
    content = bytearray((out / LAST).read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    (out / LAST).write_bytes(content if rng.random() < 0.5 else content[:place])


def test_a_damaged_checkpoint_is_refused_by_all_ranks(mpiexec, killed, words, tmp_path, rng):
    shutil.copytree(killed, tmp_path / "run")
    damage(tmp_path / "run", rng)
    refused = strike(mpiexec, 3, "", words("data", "--resume"))
    assert refused.status != 0
    assert refused.text.count(f"lowerconv: error on rank 0: {tmp_path / 'run' / LAST}: ") == 1
    assert "Traceback" not in refused.text


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal")
def test_an_interrupt_ends_all_ranks(launch, words, tmp_path):
    with launch(3, PROGRAM, "nothing:1:9:0", *words("data", "--epochs", 1000)) as process:
        text = ""
        while "fault at" not in text:
            text += process.stdout.readline()
            assert process.poll() is None, text
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        text += process.stdout.read()
        assert process.wait(ENDED) != 0
    assert time.monotonic() - begin < ENDED
    assert "Traceback" not in text
    judge(subprocess.CompletedProcess([], 130, "", ""), tmp_path / "run")


@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_network_ends_both_sides(tmp_path, tiny_fashion, cut):
    """The launcher's own host, and the other one: nobody can tell the others."""
    hosts = pytest.importorskip("bench.hosts")
    try:
        hosts.check()
    except hosts.HostsError as error:
        pytest.skip(str(error))
    timeout = 3.0
    words = arguments(tiny_fashion, tmp_path / "run", "data", "--stall-timeout", timeout)
    words += ["--epochs", "1000"]
    command = [sys.executable, str(PROGRAM), "nothing:0:9:0", *words]
    log = tmp_path / "log"
    with hosts.Hosts(2) as made, open(log, "w") as stderr:
        saved = os.dup(2)
        os.dup2(stderr.fileno(), 2)  # what the launcher inherits
        try:
            process = made.start(command, 2)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        until = time.monotonic() + 300
        while "fault at" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        subprocess.run(["ip", "-n", made.names[cut], "link", "set", "eth0", "down"], check=True)
        begin = time.monotonic()
        assert process.wait(ENDED) != 0
        while left(tmp_path / "run"):
            assert time.monotonic() < begin + ENDED
            time.sleep(0.1)
    assert re.search("error on rank [01]: rank 2 on host .*-1 does not answer", log.read_text())
    epochs(tmp_path / "run")


elastic = pytest.mark.skipif(not ulfm(), reason="needs Open MPI 5")


#  faults, who is told to have died
DEATHS = {
    "one": ("kill:1:9:0.01", ["rank 1 of 4 died: 3 go on"]),
    "rank-0": ("kill:0:9:0", ["rank 0 of 4 died: 3 go on"]),
    "one-after-the-other": ("kill:0:9:0,kill:2:10:0", ["rank 0 of 4 died", "rank 1 of 3 died"]),
    "during-recovery": ("kill:1:9:0,kill:2:recovery:0", ["rank 1, 2 of 4 died: 2 go on"]),
    "while-testing": ("kill:3:test:0", ["rank 3 of 4 died"]),
    "while-saving": ("kill:0:save:0", ["rank 0 of 4 died"]),
    "down-to-one": ("kill:0:3:0,kill:1:9:0,kill:2:11:0", ["rank 0 of 2 died: 1 go on"]),
}


@elastic
@pytest.mark.parametrize("death", DEATHS)
def test_the_others_go_on(mpiexec, words, unbroken, death):
    faults, says = DEATHS[death]
    strategy = ELASTIC[len(death) % len(ELASTIC)]
    before = ("--with-ft", "ulfm")
    outcome = strike(mpiexec, 4, faults, words(strategy, "--elastic"), options=before)
    assert outcome.status == 0, outcome.text
    assert all(text in outcome.text for text in says), outcome.text
    assert "test accuracy" in outcome.text  # whoever is rank 0 in the end says so
    assert epochs(outcome.out) == EPOCHS
    assert apart(unbroken(strategy, 3), outcome.out) < 1e-3


@elastic
def test_the_others_go_on_but_not_with_a_mistake(mpiexec, words):
    """An exception is no death: it would come again."""
    before = ("--with-ft", "ulfm")
    outcome = strike(
        mpiexec, 3, "kill:2:3:0,exception:1:9:0", words("data", "--elastic"), options=before
    )
    check_ended(outcome, 2 * ENDED)
    assert "ZeroDivisionError: on purpose" in outcome.text


def test_elastic_is_refused_where_it_cannot_be(mpiexec, words):
    outcome = strike(mpiexec, 2, "", words("data", "--elastic"))
    assert outcome.status != 0
    assert "expected Open MPI 5 and mpiexec --with-ft ulfm" in outcome.text


# --- at random ---

KINDS = ["exception", "thread", "kill", "stop", "full", "damaged"]


def test_random_faults(mpiexec, tiny_fashion, unbroken, tmp_path):
    count = int(os.environ.get("LOWERCONV_FAULTS", "1"))
    seed = int(os.environ.get("LOWERCONV_SEED", random.randrange(2**32)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    kinds = KINDS + (["death"] if ulfm() else [])
    log, struck = [], 0
    while struck < count:
        kind, strategy = rng.choice(kinds), rng.choice(STRATEGIES)
        ranks = rng.randint(2, 4)
        if kind == "death":
            strategy = rng.choice(ELASTIC)
        out = tmp_path / f"run{len(log)}"
        words = arguments(tiny_fashion, out, strategy)
        rank = 0 if kind == "full" else rng.randrange(ranks)
        place = "save" if kind == "full" else rng.choice([*map(str, range(1, 22)), "test", "save"])
        delay = rng.choice([0, rng.uniform(0, 0.1)])
        fault = "kill" if kind in ("damaged", "death") else kind
        text = f"{fault}:{rank}:{place}:{delay:.3f}"
        log.append(f"{kind} {strategy} {ranks} {text}")
        print(log[-1], flush=True)
        more, before = (), ()
        if kind == "stop":
            more = ("--stall-timeout", STALL)
        if kind == "death":
            more, before = ("--elastic",), ("--with-ft", "ulfm")
        outcome = strike(mpiexec, ranks, text, [*words, *map(str, more)], options=before)
        struck += outcome.struck
        if kind == "death" or outcome.status == 0:
            # It went on, or had ended before.
            assert outcome.status == 0, outcome.text
        else:
            assert outcome.struck, outcome.text
            assert outcome.seconds < (GIVEN_UP if kind == "stop" else ENDED), outcome.text
            names = {
                "exception": f"error on rank {rank}:",
                "thread": f"error on rank {rank}:",
                "stop": f"rank {rank} on host",
                "full": "File too large",
            }
            assert names.get(kind, "") in outcome.text, outcome.text
            if kind == "damaged":
                whole = (out / LAST).read_bytes()
                damage(out, rng)
                refused = strike(mpiexec, ranks, "", [*words, "--resume"])
                assert refused.status != 0
                assert str(out / LAST) in refused.text
                (out / LAST).write_bytes(whole)
            load_checkpoint(out / LAST)
            others = rng.choice([ranks, rng.randint(1, 4)])
            resumed = strike(mpiexec, others, "", [*words, "--resume"])
            assert resumed.status == 0, resumed.text
            print(f"  ended after {outcome.seconds:.1f} s, went on with {others}", flush=True)
            if strategy in SYNCHRONOUS and others == ranks:
                assert same(unbroken(strategy, ranks), out)
        assert epochs(out) == EPOCHS
        if strategy in SYNCHRONOUS:
            assert apart(unbroken(strategy, 3), out) < 1e-3
    print(f"{struck} faults in {len(log)} runs")
