"""A run with a fault of one rank, and what became of it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lowerconv.train.checkpoint import LAST, load_checkpoint

SYNCHRONOUS = ("data", "tree", "model", "owt", "spatial")
EPOCHS = 3
PROGRAM = Path(__file__).parents[1] / "programs" / "faulty.py"


# Seconds after a fault in which all ranks have to be gone: they are in one where nothing else runs,
# and never where they wait for each other.
ENDED = 60.0


@dataclass
class Outcome:
    """How a run has ended."""

    status: int
    text: str
    seconds: float  # from the first fault to the end; 0 without
    out: Path

    @property
    def struck(self) -> bool:
        """Whether a fault has happened at all."""
        return "fault at " in self.text


def arguments(data: Path, out: Path, strategy: str, *more: object) -> list[str]:
    """Return a short run of some strategy."""
    words = ["train", "--data", f"fashion-mnist:{data}", "--out", out, "--parallel", strategy]
    words += ["--epochs", EPOCHS, "--batch", 32, "--threads", 1, "--momentum", 0.9]
    if strategy in SYNCHRONOUS:
        words.append("--deterministic")
    return [str(word) for word in (*words, *more)]


def left(out: Path) -> list[str]:
    """Return the command lines of processes that have to do with a run, where they can be seen."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(out) in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


def strike(mpiexec, ranks: int, faults: str, words: list[str], **settings: object) -> Outcome:
    """Run with faults (see `programs/faulty.py`), to the end."""
    out = Path(words[words.index("--out") + 1])
    done = mpiexec(ranks, PROGRAM, faults, *words, timeout=240, **settings)
    return judge(done, out)


def judge(done: subprocess.CompletedProcess, out: Path) -> Outcome:
    """Return how a run has ended; raise where processes of it are left."""
    ended = time.time()
    text = done.stdout + done.stderr
    begins = [float(number) for number in re.findall(r"fault at ([\d.]+)", text)]
    seconds = ended - min(begins) if begins else 0.0
    # The launcher may be gone a moment before what it has killed.
    while remaining := left(out):
        assert time.time() < ended + ENDED, f"left behind: {remaining}"
        time.sleep(0.1)
    return Outcome(done.returncode, text, seconds, out)


def weights(out: Path) -> dict[str, np.ndarray]:
    """Return what a run has learnt."""
    return load_checkpoint(out / LAST).tensors


def epochs(out: Path) -> int:
    """Return how many epochs its checkpoint has."""
    return len(load_checkpoint(out / LAST).state["history"])


def same(one: Path, other: Path) -> bool:
    """Return whether two runs have learnt the same, bit for bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def apart(one: Path, other: Path) -> float:
    """Return the largest difference of two runs, relative to the largest weight."""
    a, b = weights(one), weights(other)
    learnt = [n for n in a if "velocity" not in n]
    return max(float(abs(a[n] - b[n]).max() / abs(a[n]).max()) for n in learnt)


def check_ended(outcome: Outcome, within: float = ENDED) -> None:
    """Raise unless all ranks have ended, in time and not well, and the checkpoint is whole."""
    assert outcome.struck, outcome.text
    assert outcome.status != 0, outcome.text
    assert outcome.seconds < within, outcome.text
    assert epochs(outcome.out) < EPOCHS
