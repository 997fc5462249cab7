"""The timeline of a run: some of its steps, recorded by all ranks and written by rank 0."""

from __future__ import annotations

from pathlib import Path

from lowerconv.nn.loss import LossResult
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.strategy import Strategy, Work
from lowerconv.parallel.trace.chrome import write
from lowerconv.parallel.trace.summary import describe
from lowerconv.parallel.trace.timeline import Timeline
from lowerconv.train.callback import Callback
from lowerconv.train.run_state import RunState


class TimelineSteps(Callback):
    """Tells a timeline when steps begin and end.

    Attributes
    ----------
    timeline : Timeline or None
        None where nothing is recorded.
    """

    timeline: Timeline | None = None

    def on_epoch_start(self) -> None:
        """Begin a step: it lasts from when a batch is asked for to when the next one is."""
        if self.timeline is not None:
            self.timeline.begin_step()

    def on_batch_start(self, work: Work) -> None:
        """Record how long the batch was waited for."""
        if self.timeline is not None:
            self.timeline.batch_loaded()

    def on_batch_end(self, samples: int, result: LossResult, left: int) -> None:
        """End a step, and begin the next one."""
        if self.timeline is not None:
            self.timeline.end_step(samples)
            if left:
                self.timeline.begin_step()


class Recording(TimelineSteps):
    """What ``--timeline`` asks for.

    Parameters
    ----------
    options : ParallelOptions
    run : RunState
        Its reporter tells where the file is.
    about : str
        What the run is.

    Attributes
    ----------
    timeline : Timeline or None
        None where nothing is recorded, or nothing any more.

    Raises
    ------
    ValueError
        The file would be in a folder that does not exist.
    """

    def __init__(self, options: ParallelOptions, run: RunState, about: str) -> None:
        communicator = run.communicator
        self._run, self._about = run, about
        if communicator.ranks > 1:
            self._about += f", strategy {options.strategy}"
        if options.timeline is not None:
            self._path = Path(options.timeline)
            folder = self._path.parent
            if communicator.rank == 0 and not folder.is_dir():  # told now, not after hours
                raise ValueError(f"timeline: got a file in {folder}, expected a folder that exists")
            self.timeline = Timeline(options.timeline_first, options.timeline_count)

    def start(self, strategy: Strategy) -> None:
        """Listen to a strategy that has been started; all ranks call it."""
        # MPI's communicator of the strategy: nothing is sent on it between epochs.
        self._comm = strategy.engine.comm if strategy.engine is not None else None
        if self.timeline is not None:
            strategy.listen(self.timeline)
            self.timeline.start(self._comm)

    def drop(self) -> None:
        """Record no more: it is done, or clocks are those of ranks that may be dead."""
        if self.timeline is not None:
            self.timeline.detach()
        self.timeline = None

    def on_epoch_end(self) -> None:
        """Write what all ranks have recorded, once it is complete."""
        if self.timeline is not None and self.timeline.complete:
            self.on_fit_end()

    def on_fit_end(self) -> None:
        """Write what all ranks have recorded."""
        timeline = self.timeline
        if timeline is None:
            return
        self.drop()
        if timeline.empty:  # on all ranks, which have the same steps
            self._run.reporter.say(
                f"warning: no timeline in {self._path}: the run ended before step "
                f"{timeline.first}, the first that should have been recorded"
            )
            return
        trace = timeline.finish(self._run.communicator, self._comm, self._about)
        if trace is not None:
            write(trace, self._path)
            self._run.reporter.say(
                f"timeline: {describe(trace)}; https://ui.perfetto.dev opens {self._path}, "
                f"lowerconv timeline {self._path} --plot draws it"
            )
