"""What a run is, in words, for its first lines."""

from __future__ import annotations

from lowerconv.parallel.comm.rank_map import RankMap
from lowerconv.printable import printable
from lowerconv.runtime.threads import get_num_threads
from lowerconv.train.run_state import RunState


def describe_run(run: RunState, parameters: int, rank_map: RankMap) -> str:
    """Return what runs where: of several ranks a line for each kind of host."""
    threads = f" x {get_num_threads()} thread" + ("s" if get_num_threads() > 1 else "")
    several = run.communicator.ranks > 1
    accumulate = run.settings.accumulate
    groups = f" x {accumulate} accumulated" if accumulate > 1 else ""
    return (
        f"{run.settings.model}, {parameters:,} parameters, on {printable(run.settings.data)}: "
        f"{len(run.train_loader.dataset):,} training and {len(run.test_loader.dataset):,} "
        f"{run.reporter.part} images; "
        f"{run.communicator.describe()}{'' if several else threads}, "
        f"batch {run.settings.batch}{groups}, algorithm {run.settings.algorithm}"
        + (f", {run.settings.words()}" if run.settings.quantizes else "")
        + (f", augmented by {run.settings.augment}" if run.settings.augment else "")
        + (f"; {run.strategy.describe()}" if run.strategy.describe() else "")
        + "".join(f"\n{line}" for line in rank_map.lines() if several)
    )


def report_data(run: RunState) -> None:
    """Tell whether training waited for its data."""
    report = run.train_loader.report()
    waits = run.communicator.sum_numbers(report.waits)[0]
    if report.workers:
        run.reporter.say(str(report))
        if waits > report.waits:
            run.reporter.say(f"data: all ranks together waited for {waits:.0f} batches")
