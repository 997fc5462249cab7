"""All messages of `halving_doubling`, as recorded from every rank, found for all ranks at once."""

from __future__ import annotations

import numpy as np

from lowerconv.predict.network.schedule import Schedule


def halving_doubling(ranks: int, size: int, itemsize: int) -> Schedule:
    """Return the messages of `lowerconv.parallel.comm.collectives.halving_doubling`.

    Parameters
    ----------
    ranks : int
        From 2.
    size : int
        Items of the array of each rank, as many as there are ranks at least.
    itemsize : int
        Bytes of an item.

    Returns
    -------
    Schedule
        But for the order of its messages that of `record`.
    """
    steps = ranks.bit_length() - 1
    power = 1 << steps
    extra = ranks - power
    me = np.arange(power)
    real = np.where(me < extra, 2 * me + 1, me + extra)
    pairs = me[:extra]  # of a rank that gives its array to the next, and gets the sum

    stages = np.full(ranks, 2 * steps + 1)
    stages[2 * pairs] = 3
    stages[2 * pairs + 1] += 2
    first = np.cumsum(stages) - stages
    added = np.zeros(stages.sum())
    exchange = first[real] + (me < extra)  # the stage of each one's first exchange
    added[exchange[:extra]] = size * itemsize

    # Each list has one array for each step: sources, targets, their stages, and bytes.
    whole = np.full(extra, size)
    last = exchange[:extra] + 2 * steps
    giving, taking = 2 * pairs, 2 * pairs + 1
    found = [
        (giving, taking, first[giving], first[taking], whole),
        (taking, giving, last, first[giving] + 1, whole),
    ]
    mine = np.full(power, size)
    for step in range(steps):
        distance = power >> (step + 1)
        partner = me ^ distance
        low, high = mine // 2, mine - mine // 2
        is_high = (me & distance) > 0
        kept, given = np.where(is_high, high, low), np.where(is_high, low, high)
        for number, items in ((step, given), (2 * steps - 1 - step, kept)):
            stage = exchange + number
            found.append((real, real[partner], stage, stage[partner], items))
        added[exchange + step + 1] += kept * itemsize
        mine = kept
    source, target, source_stage, target_stage, items = map(np.concatenate, zip(*found))  # noqa: B905
    return Schedule(
        first=first,
        last=first + stages - 1,
        added=added,
        source=source,
        target=target,
        source_stage=source_stage,
        target_stage=target_stage,
        nbytes=items * float(itemsize),
        messages=np.ones(source.size, np.int64),
    )
