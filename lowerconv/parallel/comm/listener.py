"""What strategies and the engine tell whoever listens; by default nobody does."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowerconv.parallel.comm.engine import Task

NOTHING: AbstractContextManager[None] = nullcontext()
LOSS, UPDATE, PROGRESS = "loss", "update", "progress"


class Listener:
    """Hears nothing; `lowerconv.parallel.trace.timeline.Timeline` derives from it."""

    def doing(self, kind: str, name: str = "") -> AbstractContextManager[None]:
        """Return a context in which the main thread does something that is no layer.

        Parameters
        ----------
        kind : str
            ``LOSS``, ``UPDATE``, or ``PROGRESS``: moves communication along, without waiting.
        name : str
            Of what: ``"bucket 3"``.
        """
        return NOTHING

    def waited(self, name: str, begin: int, end: int) -> None:
        """Hear that the main thread has waited for a task until now.

        Parameters
        ----------
        name : str
            Of the task.
        begin, end : int
            `time.monotonic_ns`.
        """

    def task_finished(self, task: Task) -> None:
        """Hear of a task that is done; any thread may call this."""


SILENT = Listener()
