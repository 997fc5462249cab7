"""What a run leaves on disk: checkpoints, metrics, curves, and events for TensorBoard."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from lowerconv.copying import not_copied
from lowerconv.files import remove_partials
from lowerconv.locks import BusyError, DirectoryLock
from lowerconv.train.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from lowerconv.train.metrics import EpochMetrics, best_epoch, draw_curves, write_csv
from lowerconv.train.tensorboard import TensorBoard

RUNS = Path("runs")
METRICS = "metrics.csv"

LONGEST = 120  # bytes of a directory's name, but for the number: file systems take 255
DIGEST = 8  # hexadecimal digits that tell names apart which were shortened


def _stem(model: str, data: str) -> str:
    """Return how the names of directories of runs begin.

    Letters and digits of any script stay, if files can have such names here; nothing else does.
    Long names keep their end, which is that of a path, and a digest of all that they were.
    """
    words = (
        re.sub("-+", "-", "".join(c if _fits(c, kept) else "-" for c in text)).strip("-")
        for text, kept in ((model, "_"), (data, ""))
    )
    name = "-".join(words)
    if len(os.fsencode(name)) > LONGEST:
        digest = hashlib.sha256(f"{model}-{data}".encode(errors="surrogatepass")).hexdigest()
        head = f"{_cut(name, LONGEST // 4)}-{digest[:DIGEST]}-"
        name = head + _cut(name[::-1], LONGEST - len(os.fsencode(head)))[::-1]
        name = re.sub("-+", "-", name)
    return f"{name}-"


def _fits(character: str, kept: str) -> bool:
    """Return whether a character may be in the name of a file, on this system and others."""
    try:
        os.fsencode(character)
    except UnicodeEncodeError:
        return False
    return character.isalnum() or character in kept


def _cut(text: str, most: int) -> str:
    """Return the beginning of a text: at most `most` bytes of it."""
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text


def _last(stem: str) -> int:
    """Return the number of the last run of a name, 0 if there is none."""
    numbers = [
        path.name.removeprefix(stem) for path in RUNS.glob("*") if path.name.startswith(stem)
    ]
    return max((int(n) for n in numbers if re.fullmatch("[0-9]+", n)), default=0)


def new_path(model: str, data: str) -> Path:
    """Make the next directory for runs of this model and data; nobody else gets the same one."""
    stem = _stem(model, data)
    try:
        RUNS.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(RUNS, error) from error
    number = _last(stem) + 1
    while True:
        path = RUNS / f"{stem}{number}"
        try:
            path.mkdir()
        except FileExistsError:  # another run was faster
            number += 1
        except OSError as error:
            raise _not_written(RUNS, error) from error
        else:
            return path


def last_path(model: str, data: str) -> Path:
    """Return the directory of the last run of this model and data.

    Raises
    ------
    CheckpointError
        There is none.
    """
    stem = _stem(model, data)
    number = _last(stem)
    if not number:
        raise CheckpointError(
            f"resume: found no {RUNS / stem}NUMBER, expected a run of {model} on {data}, or the "
            "directory of the run (--out)"
        )
    return RUNS / f"{stem}{number}"


def _not_written(path: Path, error: OSError) -> OSError:
    reason = error.strerror or error
    return OSError(f"{path}: cannot be written ({reason}); --out names another directory")


@not_copied("make another from its arguments")
class RunDirectory:
    """The directory of a run; only one process at a time has it.

    Parameters
    ----------
    path : Path
        Made by `begin`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: TensorBoard | None = None
        self._lock = DirectoryLock(path)

    def begin(self) -> None:
        """Make the directory for a new run.

        Raises
        ------
        CheckpointError
            There is a run already.
        OSError
            It cannot be made, or nothing can be written in it; or another process has it,
            `lowerconv.locks.BusyError`.
        """
        self._check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self.path):
                pass
            self._lock.acquire()
        except BusyError:
            raise
        except OSError as error:
            raise _not_written(self.path, error) from error
        self._check_new()  # of a run that has ended meanwhile
        remove_partials(self.path)

    def resume(self) -> Checkpoint:
        """Take over the directory of a run that has ended, and return its last checkpoint.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged.
        OSError
            Another process has the directory, `lowerconv.locks.BusyError`; or it is not writable.
        """
        if (self.path / LAST).is_file():
            self._lock.acquire()
            remove_partials(self.path)
        return load_checkpoint(self.path / LAST)

    def take_over(self) -> None:
        """Take over the directory of a rank that has died; all hosts have to share it."""
        self.path.mkdir(parents=True, exist_ok=True)
        # On network file systems the lock of the dead may outlive them.
        with suppress(BusyError):
            self._lock.acquire()

    def record(self, history: list[EpochMetrics]) -> None:
        """Write events for TensorBoard from now on, and those of the epochs that are done."""
        self.events = TensorBoard(self.path, history)

    def _check_new(self) -> None:
        if (self.path / LAST).exists():
            raise CheckpointError(
                f"{self.path}: holds a run already; --resume continues it, another --out starts a "
                "new one"
            )

    def save(self, checkpoint: Checkpoint, history: list[EpochMetrics]) -> None:
        """Write the metrics and the checkpoints after an epoch.

        The last checkpoint comes last: what it says is done is on disk, and whatever a killed run
        wrote before it is written once more, the same, by the run that resumes.
        """
        if history and best_epoch(history) == len(history):
            save_checkpoint(self.path / BEST, checkpoint)
        write_csv(self.path / METRICS, history)
        if self.events is not None and history:
            self.events.write(history[-1])
        save_checkpoint(self.path / LAST, checkpoint)

    def draw(self, history: list[EpochMetrics], title: str) -> None:
        """Draw the curves, where matplotlib is installed."""
        draw_curves(self.path / "curves.png", history, title)

    def close(self) -> None:
        """End the file of events, and let others have the directory."""
        if self.events is not None:
            self.events.close()
        self._lock.release()
