"""What strategies and the engine tell whoever listens; by default nobody does."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

NOTHING: AbstractContextManager[None] = nullcontext()

LOSS, UPDATE = "loss", "update"
WAIT, PROGRESS = "wait", "progress"


class Listener:
    """Hears nothing; `lowerconv.parallel.timeline.Timeline` derives from it."""

    def doing(self, kind: str, name: str = "") -> AbstractContextManager[None]:
        """Return a context in which the main thread computes something that is no layer.

        Parameters
        ----------
        kind : str
            ``LOSS`` or ``UPDATE``.
        name : str
            Of what: ``"bucket 3"``.
        """
        return NOTHING

    def waiting(self, name: str) -> AbstractContextManager[None]:
        """Return a context in which the main thread waits for a piece of communication."""
        return NOTHING

    def progressing(self) -> AbstractContextManager[None]:
        """Return a context in which the main thread moves communication along, and goes on."""
        return NOTHING

    def task_finished(
        self, name: str, nbytes: int, submitted: int, started: int, finished: int
    ) -> None:
        """Hear of a piece of communication that is done; any thread may call this.

        Parameters
        ----------
        name : str
            The same as `waiting` is told.
        nbytes : int
            That this rank has sent.
        submitted, started, finished : int
            `time.monotonic_ns`.
        """


SILENT = Listener()
