"""How long a step takes with a parameter server: `parallel.strategies.server`, replayed.

A step computes, pushes a shard of the gradients to each server, and waits for the weights that
these answer with: nothing of that is hidden.  Workers that may be ahead of each other are replayed
push by push, with steps that vary by chance.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import StepSeconds
from lowerconv.predict.collective_costs import Links, Part, Placement
from lowerconv.predict.replay import run_alone

if TYPE_CHECKING:
    from lowerconv.predict.step import StepPrediction

ALGORITHM = "direct"  # of sums: sends as servers do, a part to each rank and one back
PUSHES = 200  # of each worker that are replayed; the first tenth does not count
MOST_WORKERS = 64  # that are replayed: more of them differ little
ROUNDED = 2  # digits of staleness, of which the shares are counted


def exchanged(at: Placement, servers: int) -> Part:
    """Return what is pushed at the same time, as parts of the gradients; answers are as large.

    Parameters
    ----------
    at : Placement
    servers : int
        The first ranks; the host of the first ones is the busiest.
    """
    on_host = min(at.busiest, servers)
    return Part((at.busiest - 1) / servers, on_host * (at.ranks - at.busiest) / servers)


def of_servers(
    alone: StepPrediction,
    step: StepSeconds,
    slower: float,
    options: ParallelOptions,
    links: Links,
    at: Placement,
    threaded: bool,
    gradients: int,
) -> StepPrediction:
    """Return a step with parameter servers, of one in which ranks send nothing.

    Parameters
    ----------
    alone : StepPrediction
    step : StepSeconds
    slower : float
        By which all parts of the step are.
    options : ParallelOptions
    links : Links
    at : Placement
    threaded : bool
        Whether a thread moves messages, and updates.
    gradients : int
        Bytes.

    Raises
    ------
    ValueError
        More servers than ranks, or links of which nothing is known.
    """
    links.check(at)
    servers = at.ranks if options.servers is None else options.servers
    if servers > at.ranks:
        raise ValueError(f"servers: got {servers} with {at.ranks} ranks, expected no more")
    message = links.message(ALGORITHM, exchanged(at, servers), gradients)
    sent = run_alone([message, message])
    update = slower * step.update
    # In step a server updates its shard once; else with each worker's gradients, when they come.
    updates = update / servers if options.staleness == 0 else update * at.ranks / servers
    computed = alone.compute - update + updates
    late = 0.0
    staleness: dict[float, float] = {}
    if options.staleness:
        if not threaded:  # a server answers when a layer is done
            layers = [layer.seconds for layer in (*step.forward, *step.backward)]
            looks = sum(s * s for s in layers) / (2 * sum(layers))
            sent += slower * looks * computed / (computed + sent)
        late, staleness = _ahead(
            min(at.ranks, MOST_WORKERS),
            computed + alone.input + sent,
            step.spread,
            options.staleness,
        )
    return replace(
        alone,
        seconds=computed + alone.input + sent + late,
        compute=computed,
        exposed=sent,
        skew=late,
        in_flight=sent,
        # The server's weights beside the worker's, gradients of each worker, and their sum.
        nbytes=alone.nbytes + 2 * gradients + gradients * at.ranks // servers,
        algorithms=(f"{servers} server{'s' * (servers > 1)}",),
        staleness=staleness,
    )


def _ahead(
    ranks: int, seconds: float, spread: float, bound: int
) -> tuple[float, dict[float, float]]:
    """Return by how much a step is longer as workers wait for others, and shares of staleness."""
    rng = np.random.default_rng(0)
    factors = np.maximum(0.5, 1 + spread * rng.standard_normal((ranks, PUSHES)))
    # They have not all begun at once: where in a step each is, is left to chance.
    events = [(seconds * float(rng.uniform()), rank) for rank in range(ranks)]
    heapq.heapify(events)
    clocks, blocked, noted = [0] * ranks, list[int](), list[float]()
    ends: list[float] = []
    while events:
        now, rank = heapq.heappop(events)
        clocks[rank] += 1
        slowest = min(clocks)
        waiting, blocked = [rank, *blocked], []
        for other in waiting:
            if clocks[other] == PUSHES:
                ends.append(now)
            elif clocks[other] - slowest > bound:
                blocked.append(other)
            else:
                if clocks[other] > PUSHES // 10:
                    noted.append(sum(max(0, clocks[other] - c) for c in clocks) / ranks)
                again = now + seconds * float(factors[other, clocks[other]])
                heapq.heappush(events, (again, other))
    counts = Counter(round(missing, ROUNDED) for missing in noted)
    shares = {missing: counts[missing] / len(noted) for missing in sorted(counts)}
    return max(0.0, max(ends) / PUSHES - seconds), shares
