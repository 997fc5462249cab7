"""What became of the frames of a stream: latencies, frames a second, memory."""

from __future__ import annotations

import time

from lowerconv.bench.latencies import Latencies
from lowerconv.bench.show import plural
from lowerconv.copying import not_copied
from lowerconv.data.ahead import Waiting
from lowerconv.machine.memory import resident_memory
from lowerconv.runtime.threads import get_num_threads

SETTLED = 16  # frames after which all that stays has been made
MIB = 2**20


@not_copied("make another for another stream")
class StreamReport:
    """Counts what becomes of frames; printed it is the report at the end.

    Parameters
    ----------
    fps : float, optional
        Frames that come in a second.

    Attributes
    ----------
    answers : Latencies
        From a decoded frame to its answer.
    whole : Latencies
        From when a frame came until its answer is printed.
    begun : bool
        Whether a stream is under way; the report may be of several.
    seconds : float
        From the first frame to the last, without what was prepared before.
    growth : int or None
        Bytes of memory that the process had more at the end of streams than after 16 frames.
    damaged, dropped, late : int
        Frames that could not be decoded; whose next one was there before they could be computed;
        that were answered after the next one came.
    """

    def __init__(self, fps: float | None = None) -> None:
        self.answers, self.whole = Latencies(), Latencies()
        self.begun, self.seconds = False, 0.0
        self.damaged = self.dropped = self.late = 0
        self.fps, self._preparing = fps, 0.0
        self._shape: tuple[int, ...] = ()
        self._shapes = 0  # changes of it
        self._began = 0.0
        self._now = 0  # answered of the stream that is under way
        self._memory: list[int] = []  # of it
        self.growth: int | None = None
        self._waits, self._waited = 0, 0.0

    def begin(self, preparing: float) -> None:
        """Note that a first frame is ready, and how long its network was prepared for."""
        self.begun = True
        self._preparing += preparing
        self._now, self._memory = 0, []
        self._began = time.perf_counter()

    def answered(self, answer: float, whole: float, shape: tuple[int, ...]) -> None:
        """Note how long a frame took, and what shape it has."""
        self.answers.add(answer)
        self.whole.add(whole)
        if self.fps is not None and whole > 1 / self.fps:
            self.late += 1
        if shape != self._shape:
            self._shape = shape
            self._shapes += 1
        self._now += 1
        if self._now == SETTLED:
            self._note_memory()

    def end(self, waiting: Waiting) -> None:
        """Note that no frame comes any more, and how long frames were waited for."""
        if self.begun:
            self.begun = False
            self.seconds += time.perf_counter() - self._began
            self._waits += waiting.waits
            self._waited += waiting.seconds
            self._note_memory()
            if len(self._memory) > 1:
                self.growth = (self.growth or 0) + self._memory[-1] - self._memory[0]

    def _note_memory(self) -> None:
        memory = resident_memory()
        if memory is not None:
            self._memory.append(memory)

    @property
    def rate(self) -> float:
        """Frames a second that were answered."""
        return self.answers.count / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        lines = [self._first_line()]
        if self.answers.count:
            lines += self._table()
            lines.append(f"prepared with the first frame in {self._preparing:.2f} s, not counted")
            if self._waits:
                waits = plural(self._waits, "frame")
                lines.append(f"waited for {waits} to come or be decoded, {self._waited:.2f} s")
        lines += self._memory_line()
        for count, what in (
            (self.dropped, "dropped: the next was there before it could be computed"),
            (self.late, f"late: answered after the {1e3 / (self.fps or 1):.1f} ms to the next"),
            (self.damaged, "damaged, and left out"),
        ):
            if count:
                lines.append(f"{plural(count, 'frame')} {what}")
        return "\n".join(lines)

    def _first_line(self) -> str:
        count = self.answers.count
        if not count:
            return "no frame was answered"
        shape = "x".join(map(str, self._shape))
        sizes = shape if self._shapes == 1 else f"{shape} and other sizes"
        return (
            f"{plural(count, 'frame')} of {sizes} in {self.seconds:.2f} s: "
            f"{self.rate:,.1f} frames/s on {plural(get_num_threads(), 'thread')}"
        )

    def _table(self) -> list[str]:
        """Return the rows of the table, and how far the slow ones are from the median."""
        lines = [f"{'ms':<12}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}"]
        for name, latencies in (("answer", self.answers), ("end to end", self.whole)):
            values = (*latencies.percentiles(), latencies.worst)
            lines.append(f"{name:<12}" + "".join(f"{1e3 * v:>10.2f}" for v in values))
        median, _, slow = self.answers.percentiles()
        lines.append(f"p99 of answers is {slow / median:.2f} x their median")
        return lines

    def _memory_line(self) -> list[str]:
        if not self._memory:
            return []
        last = self._memory[-1] / MIB
        if len(self._memory) == 1:
            return [f"memory: {last:.1f} MiB"]
        return [
            f"memory: {self._memory[0] / MIB:.1f} MiB after {SETTLED} frames, {last:.1f} MiB at "
            f"the end ({last - self._memory[0] / MIB:+.1f} MiB)"
        ]
