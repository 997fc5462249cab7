"""Launches captured while code runs, and replayed in one call: as CUDA graphs do on GPUs.

What a kernel is given at a launch is a record, or the frame of a compiled function.  Where all
memory that it names stays where it is, the same launch can be made again without the code that
prepared it, which is most of the time of a small layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from lowerconv.codegen import fork_join
from lowerconv.copying import not_copied
from lowerconv.runtime.team import Team, TeamHandle, team
from lowerconv.runtime.threads import get_num_threads
from lowerconv.runtime.workspace import workspace_generation

FRAME_BYTES = 1024  # of a launch, about: those of kernels of three arrays have 500


@not_copied("capture there")
class Capture:
    """Launches of a thread, in their order.

    Parameters
    ----------
    launches : int
        How many there is room for.
    frame_words : int, optional
        How many words of their frames there is room for; by default frames of `FRAME_BYTES` each.

    Attributes
    ----------
    count : int
        How many there are.
    """

    def __init__(self, launches: int, frame_words: int | None = None) -> None:
        self._team: Team = team()
        self._rows = np.zeros((launches, fork_join.ROW), np.int64)  # function, job, workers
        words = launches * FRAME_BYTES // 8 if frame_words is None else frame_words
        self._frames = np.empty(words, np.int64)
        self._reach = [
            (array.ctypes.data, array.ctypes.data + array.nbytes)
            for array in (self._rows, self._frames)
        ]
        self._frame_words = 0
        self.count = 0
        self._threads, self._scratch = get_num_threads(), workspace_generation()
        self._replay = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(fork_join.address("replay"))

    def another(self) -> Capture:
        """Return one with room for what this one has captured."""
        return Capture(self.count, self._frame_words)

    def record(self, run: Callable[[], object]) -> bool:
        """Call a function; capture what this thread launches in it, if there is room.

        Returns
        -------
        bool
            Whether there was; also False where a handler of a signal, or a finalizer, captures in
            the middle of another capture.
        """
        state = self._team.words
        if self._team.capturing._is_owned():
            run()
            return False
        with self._team.capturing:
            (rows, rows_end), (frames, frames_end) = self._reach
            rows += 8 * self.count * fork_join.ROW
            frames += 8 * self._frame_words
            state[fork_join.NEXT_ROW], state[fork_join.ROWS_END] = rows, rows_end
            state[fork_join.NEXT_FRAME], state[fork_join.FRAMES_END] = frames, frames_end
            state[fork_join.MISSED] = 0
            run()
            self.count += int(state[fork_join.NEXT_ROW] - rows) // (8 * fork_join.ROW)
            self._frame_words += int(state[fork_join.NEXT_FRAME] - frames) // 8
            return not state[fork_join.MISSED]

    @property
    def valid(self) -> bool:
        """Whether the threads and the scratch memory of the launches are those of the process."""
        own = self._team, self._threads, self._scratch
        return own == (team(), get_num_threads(), workspace_generation())

    def same_as(self, other: Capture) -> bool:
        """Return whether another capture has launched the same functions on as many threads."""
        mine, others = self._rows[: self.count], other._rows[: other.count]
        return np.array_equal(mine[:, ::2], others[:, ::2])  # jobs in frames lie elsewhere

    def fits(self, handle: TeamHandle, first: int, last: int) -> bool:
        """Return whether a team has threads for the launches ``first .. last``."""
        return handle.threads >= int(self._rows[first:last, 2].max(initial=1))

    def replay(self, handle: TeamHandle, first: int, last: int) -> None:
        """Make the launches ``first .. last`` again, on threads that `fits` has found enough."""
        at = self._rows.ctypes.data + 8 * fork_join.ROW * first
        self._replay(handle.state, at, last - first)
