"""The tables of ``lowerconv bench`` under pytest-benchmark: what their suites have in common.

A suite takes its cases from `lowerconv.bench.tables`: both time the same calls.  A group is a case
with all its candidates.  They follow one another, so a machine that slows down counts against
whoever is last: in ``lowerconv bench`` they take turns.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import pytest

import lowerconv as lc
from lowerconv.bench.case import Case, Options
from lowerconv.bench.passes import check_agreement
from lowerconv.bench.tables import TABLES


def generate(metafunc: pytest.Metafunc, table: str) -> None:
    """Make a benchmark of every candidate of every case of a table that the options select."""
    options: Namespace = metafunc.config.option
    study = TABLES[table]
    wanted = Options(options.threads, options.batch or study.batch, study.passes, options.layers)
    found = [
        pytest.param(case, name, id=f"{'-'.join(case.labels.values())}-{name}")
        for case in study.cases(wanted)
        for name in case.names
    ]
    metafunc.parametrize(("case", "name"), found)


ROUNDS = 5  # where every call has to be prepared


def time_candidate(benchmark: Any, request: pytest.FixtureRequest, case: Case, name: str) -> None:
    """Time one candidate, once it is known to compute what the first one does."""
    lc.set_num_threads(request.config.option.threads)
    runs = case.build(dict.fromkeys([case.names[-1], name]) if case.agree else [name])
    if case.agree:
        check_agreement(runs, str(case))
    run = runs[name]
    del runs  # nobody else's threads spin meanwhile
    benchmark.group = str(case)
    if hasattr(run, "prepare"):  # before every call, and not timed
        benchmark.pedantic(run, setup=run.prepare, rounds=ROUNDS, warmup_rounds=1)
    else:
        benchmark(run)
    if benchmark.stats:  # there are none with --benchmark-disable
        if "flops" in case.facts:
            speed = case.facts["flops"] / benchmark.stats["median"]
            benchmark.extra_info["GFLOP/s"] = speed / 1e9
        if hasattr(run, "details"):
            benchmark.extra_info |= run.details()
