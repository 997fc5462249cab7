"""The rounds of a collective: messages that go at the same time, if ranks are equally fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lowerconv.predict.network.collectives import FULL, phases_of, ranks_of, schedule_of
from lowerconv.predict.network.compact import Phase
from lowerconv.predict.network.schedule import Schedule


class Round(NamedTuple):
    """Messages that ranks send at the same time.

    Attributes
    ----------
    near : float
        The most bytes that a rank sends within its host.
    far : float
        The most bytes that all ranks of a host together send to others.
    times : int
        How many such rounds follow each other.
    """

    near: float
    far: float
    times: int


def rounds_of(name: str, hosts: np.ndarray, size: int) -> Iterator[Round]:
    """Yield the rounds of a collective, one after the other.

    They are those of its messages as recorded; of many ranks those of the flows that stand for them
    (`compact`).

    Parameters
    ----------
    name : str
        One of `collectives.COLLECTIVES`.
    hosts : ndarray, (ranks,), int
        The host of each rank.
    size : int
        Bytes of the array of each rank.
    """
    members = ranks_of(hosts)
    phases: Iterable[Phase] | None = None
    if hosts.size > FULL:
        phases = phases_of(name, hosts.size, size, members)
    if phases is None:
        phases = _phases(schedule_of(name, hosts.size, size, np.int8, members))
    for phase in phases:
        source, target = hosts[phase.source], hosts[phase.target]
        times = int(np.max(phase.messages))
        nbytes = np.broadcast_to(np.divide(phase.nbytes, times), source.shape)
        near = source == target
        yield Round(
            _most(phase.source[near], nbytes[near]), _most(source[~near], nbytes[~near]), times
        )


def _most(sender: np.ndarray, nbytes: np.ndarray) -> float:
    """Return the most bytes of a sender."""
    return float(np.bincount(sender, nbytes).max(initial=0.0))


def _phases(schedule: Schedule) -> Iterator[Phase]:
    """Yield messages that can be sent when all those of earlier phases have arrived."""
    number = _numbers(schedule)
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(number.max(initial=-1) + 2))
    for begin, end in pairwise(bounds.tolist()):
        some = order[begin:end]
        yield Phase(schedule.source[some], schedule.target[some], schedule.nbytes[some], 1)


def _numbers(schedule: Schedule) -> np.ndarray:
    """Return for each message the longest chain of others that it waits for."""
    stages = np.zeros(schedule.added.size, np.int64)
    while True:
        messages = np.maximum(stages[schedule.source_stage], stages[schedule.target_stage])
        later = stages.copy()
        for stage in (schedule.source_stage, schedule.target_stage):
            np.maximum.at(later, stage + 1, messages + 1)
        if np.array_equal(later, stages):
            return messages
        stages = later
