"""The timeline of a run: some of its steps, recorded by all ranks and written by rank 0."""

from __future__ import annotations

from pathlib import Path

from lowerconv.copying import not_copied
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.strategy import Strategy
from lowerconv.parallel.trace.chrome import write
from lowerconv.parallel.trace.summary import describe
from lowerconv.parallel.trace.timeline import Timeline


@not_copied("make another from its arguments")
class Recording:
    """What ``--timeline`` asks for.

    Parameters
    ----------
    options : ParallelOptions
    communicator : Communicator
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

    def __init__(self, options: ParallelOptions, communicator: Communicator, about: str) -> None:
        self.timeline: Timeline | None = None
        self._communicator, self._about = communicator, about
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

    def write(self, *, at_end: bool) -> str | None:
        """Write what all ranks have recorded, once it is complete, or at the end of the run.

        Returns
        -------
        str or None
            What is to be told.
        """
        timeline = self.timeline
        if timeline is None or not (at_end or timeline.complete):
            return None
        self.drop()
        if timeline.empty:  # on all ranks, which have the same steps
            return (
                f"warning: no timeline in {self._path}: the run ended before step "
                f"{timeline.first}, the first that should have been recorded"
            )
        trace = timeline.finish(self._communicator, self._comm, self._about)
        if trace is None:
            return None
        write(trace, self._path)
        return (
            f"timeline: {describe(trace)}; https://ui.perfetto.dev opens {self._path}, "
            f"lowerconv timeline {self._path} --plot draws it"
        )
