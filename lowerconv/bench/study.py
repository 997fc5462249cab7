"""A study: a table of the literature, and how it is measured, printed and drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from lowerconv.bench.case import Case, Options
from lowerconv.bench.interleaved import SETTLE, times
from lowerconv.bench.load import Others
from lowerconv.bench.passes import check_agreement
from lowerconv.bench.peak import fma_peak
from lowerconv.bench.result import Result, Row
from lowerconv.runtime.report import machine_report
from lowerconv.runtime.threads import set_num_threads

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Study:
    """A table of the literature.

    Attributes
    ----------
    name : str
        As ``--table`` takes it; files that are saved are called so.
    summary : str
        A line for people.
    cases : callable
        Returns what `Options` ask for, to be measured in this order.
    tables, notes : callable
        Return the tables of a result, and the lines below them.
    draw : callable
        Draws a result into an empty figure.
    batch : int or None
        Default; None where every network has its own.
    passes : tuple of str
        Default; empty where there is nothing to choose.
    has_layers : bool
        Whether single layers can be chosen.
    conditions : callable
        Measures, for a number of threads, what the machine gives beside the FMA peak, which every
        table has; the best of two times counts.
    files : callable
        Returns by their names what ``--plot`` writes beside the picture, such as a trace.
    """

    name: str
    summary: str
    cases: Callable[[Options], list[Case]]
    tables: Callable[[Result], list[Table]]
    notes: Callable[[Result], list[str]]
    draw: Callable[[Result, Figure], None]
    batch: int | None = None
    passes: tuple[str, ...] = ()
    has_layers: bool = True
    conditions: Callable[[int], dict[str, float]] = lambda threads: {}
    files: Callable[[Result], dict[str, bytes]] = lambda result: {}


def measure(
    study: Study, options: Options, notify: Callable[[str], None] = lambda text: None
) -> Result:
    """Measure a table.

    Parameters
    ----------
    study : Study
    options : Options
        Threads are set for the process.
    notify : callable
        Is told what comes next.

    Returns
    -------
    Result

    Raises
    ------
    RuntimeError
        Candidates that shall compute the same do not.
    """
    set_num_threads(options.threads)
    rows: list[Row] = []
    peak = 0.0
    notify(f"{study.name}: the machine")
    before = study.conditions(options.threads)
    cases = study.cases(options)
    for number, case in enumerate(cases, 1):
        notify(f"{study.name}: {case} ({number} of {len(cases)})")
        peak = max(peak, fma_peak(options.threads))  # the clock of a shared machine comes and goes
        rows.append(measure_case(case, options))
    after = study.conditions(options.threads)
    return Result(
        study.name,
        {"threads": options.threads, "batch": options.batch, "seconds": options.seconds},
        {"peak": peak} | {name: max(before[name], after[name]) for name in before},
        machine_report(),
        tuple(rows),
    )


def measure_case(case: Case, options: Options) -> Row:
    """Time the candidates of a case in turns."""
    runs = case.build(case.names)
    if case.agree:
        check_agreement(runs, str(case))
    others = Others()
    taken = times(runs, options.seconds, SETTLE if options.threads > 1 else 0.0)
    facts = case.facts | {"others": others.cores()}
    # Some candidates tell more than how long they took.
    details = {name: run.details() for name, run in runs.items() if hasattr(run, "details")}
    return Row(case.labels, taken, facts | ({"details": details} if details else {}))
