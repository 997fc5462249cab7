"""What rank 0 says while it trains: a live bar on a terminal, lines of text elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, suppress

from numba.core import event
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from lowerconv.copying import not_copied
from lowerconv.machine.mpi import launched_rank
from lowerconv.printable import printable_lines
from lowerconv.runtime.uninterrupted import uninterrupted
from lowerconv.train.metrics import EpochMetrics

LINE_SECONDS = 5.0  # between two lines where the bar cannot move
BAR_SECONDS = 0.1  # between two moves of the bar
BAR_CELLS = 20
TEXT_COLUMNS = 76  # that the text beside the bar may take: the bar gets what is left of the line


class Reporter:
    """Says nothing: what ranks other than 0 use, and what the others derive from.

    Attributes
    ----------
    part : str
        What the images are called that an epoch ends with: ``test``, or ``validation``.
    """

    part = "test"

    def say(self, text: str) -> None:
        """Print a line."""

    def start_epoch(self, epoch: int, epochs: int, images: int) -> None:
        """Begin an epoch, which has `images` images."""

    def step(self, images: int, loss: float, accuracy: float) -> None:
        """Tell how many images of the epoch are done, and how the epoch goes so far."""

    def end_epoch(self, row: EpochMetrics, epochs: int) -> None:
        """Tell the figures of the epoch."""

    def close(self) -> None:
        """End all displays."""


@not_copied("make another from its arguments")
class ConsoleReporter(Reporter):
    """Shows epoch, loss, accuracy, images/s and time left.

    On a terminal a bar moves.  Under ``mpiexec`` the output is a pipe, in which nothing can move:
    then the bar is printed anew every few seconds, as a line.  With Open MPI too, which gives ranks
    terminals of their own, wherever what they print goes in the end.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._moved = 0.0
        if console.is_terminal and launched_rank() is None:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(max(4, min(BAR_CELLS, console.width - TEXT_COLUMNS))),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[text]}"),
                console=console,
                transient=True,
                auto_refresh=False,  # which would be a thread's, beside those that compute
            )

    def say(self, text: str) -> None:
        """Print a line; once nobody reads them any more, nothing."""
        shown = printable_lines(text, self._console.encoding)
        try:
            self._console.print(shown, highlight=False, soft_wrap=True, markup=False, emoji=False)
        except BrokenPipeError:  # as behind `| head -1`: an epoch is worth more than its line
            self._console.quiet = True
            sys.stderr.write("lowerconv: nobody reads what is printed any more; training goes on\n")

    def start_epoch(self, epoch: int, epochs: int, images: int) -> None:
        """Begin an epoch, which has `images` images."""
        self._images, self._label = images, f"{epoch}/{epochs}"
        self._left = epochs - epoch
        self._first: tuple[float, int] | None = None  # when a step ended first, and how far
        self._spoke = time.monotonic()
        if self._progress is not None:
            self._progress.start()
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task("", total=images, epoch=self._label, text="")
            self._progress.refresh()

    def step(self, images: int, loss: float, accuracy: float) -> None:
        """Tell how many images of the epoch are done, and how the epoch goes so far."""
        now = time.monotonic()
        # The first step may have compiled for long: it says nothing of the speed to come.
        if self._first is None:
            self._first, self._spoke = (now, images), now
        begin, before = self._first
        speed = (images - before) / max(1e-9, now - begin)
        text = f"loss {loss:.4f}  accuracy {accuracy:6.2%}  {speed:,.0f} images/s"
        if speed:
            left = int((self._images * (self._left + 1) - images) / speed)
            text += f"  {left // 60}:{left % 60:02d} left"
        if self._progress is not None and self._task is not None:
            moves = now - self._moved >= BAR_SECONDS
            self._moved = now if moves else self._moved
            self._progress.update(self._task, completed=images, text=text, refresh=moves)
        elif now - self._spoke >= LINE_SECONDS:
            self._spoke = now
            done = images / self._images
            cells = round(BAR_CELLS * done)
            bar = "#" * cells + "." * (BAR_CELLS - cells)
            self.say(f"epoch {self._label} [{bar}] {done:4.0%}  {text}")

    def end_epoch(self, row: EpochMetrics, epochs: int) -> None:
        """Tell the figures of the epoch."""
        ema = "" if row.ema_accuracy is None else f"ema {row.ema_accuracy:6.2%}  "
        if row.staleness_mean is not None:
            ema += f"staleness {row.staleness_mean:.2f}, at most {row.staleness_max}  "
        self.say(
            f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.train_loss:.4f}  "
            f"train {row.train_accuracy:6.2%}  {self.part} {row.test_accuracy:6.2%}  {ema}"
            f"{row.images_per_second:,.0f} images/s"
        )

    def close(self) -> None:
        """End all displays."""
        if self._progress is not None:
            uninterrupted(self._end)

    def _end(self) -> None:
        assert self._progress is not None
        with suppress(IndexError):  # rich was interrupted when it began
            self._progress.stop()
        self._console.show_cursor()


class _CompilationListener(event.Listener):
    def __init__(self, reporter: Reporter) -> None:
        self._reporter: Reporter | None = reporter

    def on_start(self, started: event.Event) -> None:
        if self._reporter is not None:
            self._reporter.say("compiling kernels for this machine, once: up to half a minute")
            self._reporter = None

    def on_end(self, ended: event.Event) -> None:
        pass


def announce_compilation(reporter: Reporter) -> AbstractContextManager:
    """Tell why nothing moves, should kernels have to be compiled first."""
    return event.install_listener("numba:compile", _CompilationListener(reporter))
