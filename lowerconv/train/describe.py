"""What a run is, in words, for its first lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowerconv.printable import printable
from lowerconv.runtime.threads import get_num_threads

if TYPE_CHECKING:
    from lowerconv.train.trainer import Trainer


def describe_run(run: Trainer) -> str:
    """Return what runs where: of several ranks a line for each kind of host."""
    parameters = sum(p.data.size for p in run.network.parameters().values())
    threads = f" x {get_num_threads()} thread" + ("s" if get_num_threads() > 1 else "")
    several = run.communicator.ranks > 1
    accumulate = run.settings.accumulate
    groups = f" x {accumulate} accumulated" if accumulate > 1 else ""
    return (
        f"{run.settings.model}, {parameters:,} parameters, on {printable(run.settings.data)}: "
        f"{len(run._train.dataset):,} training and {len(run._test.dataset):,} "
        f"{run.reporter.part} images; "
        f"{run.communicator.describe()}{'' if several else threads}, "
        f"batch {run.settings.batch}{groups}, algorithm {run.settings.algorithm}"
        + (f", augmented by {run.settings.augment}" if run.settings.augment else "")
        + (f"; {run.strategy.describe()}" if run.strategy.describe() else "")
        + "".join(f"\n{line}" for line in run.roster.lines() if several)
    )


def report_data(run: Trainer) -> None:
    """Tell whether training waited for its data."""
    report = run._train.report()
    waits = run.communicator.sum_numbers(report.waits)[0]
    if report.workers:
        run.reporter.say(str(report))
        if waits > report.waits:
            run.reporter.say(f"data: all ranks together waited for {waits:.0f} batches")
