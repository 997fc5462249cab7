"""Measures what a calibration has: some seconds for each part of it.

First what sums take, as a run measures at its start which algorithm is the fastest; then steps of a
rank that computes alone (`trial`), and of all ranks of the job at once.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lowerconv.parallel.comm.choice import SMALL, measure
from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import (
    HOST,
    NETWORK,
    Calibration,
    Crowd,
    LinkSeconds,
    NetworkFacts,
    ParameterFacts,
    StepSeconds,
)
from lowerconv.predict.lateness import spread_of
from lowerconv.predict.trial import (
    LEAST,
    RECORDED,
    SETTLE,
    StepClock,
    Trial,
    measure_step,
)
from lowerconv.runtime.report import machine_report
from lowerconv.runtime.threads import get_num_threads
from lowerconv.train.setup import Setup, make_optimizer

TURNS = 8  # of what is compared, at most: a machine's speed moves, which comparisons must not see
TURN = 0.5  # seconds of each
BUDGET = 40.0  # seconds for all numbers of images: none begins that would take longer
SIZES = (SMALL, 1 << 21)  # bytes of the arrays that are summed
SUMS = 7  # of each algorithm and size
WALKED = 1 << 25  # bytes that ranks read and write between sums: more than a core's own caches have
BUSY_ROUNDS = 5  # sums by which is found out who is busy meanwhile


def measure_steps(
    setup: Setup, shares: Sequence[int], say: Callable[[str], None], budget: float = BUDGET
) -> list[StepSeconds]:
    """Return what steps take with ever more images, as many as the time allows.

    Parameters
    ----------
    setup : Setup
    shares : sequence of int
        Images of a step, of which the least is measured always.
    say : callable
        Is told how it goes.
    budget : float
        Seconds.
    """
    found: list[StepSeconds] = []
    begin = time.perf_counter()
    for images in sorted({min(share, len(setup.train_set)) for share in shares}):
        if found:
            last = found[-1]
            steps = 2 * SETTLE + LEAST + RECORDED
            needed = steps * (last.seconds + last.input) * images / last.images
            if time.perf_counter() - begin + needed > budget:
                say(f"{images} images and more: not measured, in proportion to {last.images}")
                break
        trial = Trial(setup, images)
        try:
            found.append(measure_step(trial))
        finally:
            trial.close()
    left = budget - (time.perf_counter() - begin)
    found = measure_in_turns(setup, found, left)
    for step in found:
        seconds = step.seconds + step.input
        say(f"{step.images} images: {1e3 * seconds:.2f} ms a step of one rank alone")
    return found


def measure_in_turns(setup: Setup, steps: list[StepSeconds], budget: float) -> list[StepSeconds]:
    """Return steps as they are when all of them are measured in turns, some seconds altogether."""
    begin = time.perf_counter()
    needed = sum(max(TURN, (SETTLE + LEAST) * (step.seconds + step.input)) for step in steps)
    ratios: list[list[float]] = []
    while len(steps) > 1 and len(ratios) < TURNS:
        if time.perf_counter() - begin + needed > budget:
            break
        ratios.append([])
        for step in steps:
            trial = Trial(setup, step.images)
            try:
                taken = float(trial.times(TURN).mean())
                expected = step.seconds + (0.0 if trial.loader.workers else step.input)
                ratios[-1].append(taken / expected)
            finally:
                trial.close()
    if not ratios:
        return steps
    # What they took at first, on average, in the proportion that they have in turns.
    found = np.array(ratios)
    scale = np.median(found / found.mean(axis=1, keepdims=True), axis=0)
    return [step.scaled(float(factor)) for step, factor in zip(steps, scale, strict=True)]


def measure_crowd(communicator: Communicator, setup: Setup, batch: int) -> Crowd | None:
    """Return how much slower ranks of rank 0's host are when they share a batch, all at once.

    Compared with rank 0 alone, in turns; None where it has no neighbours.  All ranks call it.
    """
    here = next(ranks for ranks in communicator.hosts if 0 in ranks)
    if len(here) == 1:
        return None
    trial = Trial(setup, -(-batch // len(here)))
    alone: list[float] = []
    together: list[np.ndarray] = []
    try:
        trial.run(StepClock(SETTLE, 1, 1, 0.0))  # all have compiled and taken memory
        for _ in range(TURNS):  # in turns: what else the machine does is alike
            communicator.gather(None)
            if communicator.rank == 0:
                alone.append(float(trial.times(TURN).mean()))
            communicator.gather(None)
            together.append(trial.times(TURN))
    finally:
        trial.close()
    means = np.array([turn.mean() for turn in together])
    spread = statistics.mean(map(spread_of, together))
    everywhere = [
        each for rank, each in enumerate(communicator.gather((means, spread))) if rank in here
    ]
    slowed = np.mean([each for each, _ in everywhere], axis=0)
    slowdown = float(np.median(slowed / communicator.broadcast(alone)))
    return Crowd(len(here), max(1.0, slowdown), statistics.mean(each for _, each in everywhere))


def measure_links(communicator: Communicator) -> LinkSeconds | None:
    """Return what sums take on the links of the job; None for a process alone.

    All ranks call it.

    Raises
    ------
    ValueError
        Some ranks share a host and others do not.
    """
    ranks, hosts = communicator.ranks, len(communicator.hosts)
    if ranks == 1:
        return None
    if hosts not in (1, ranks):
        raise ValueError(
            f"calibrate: got {ranks} ranks on {hosts} hosts, expected all on one, or each on "
            "another: links within hosts and between them are measured one after the other"
        )
    engine = make_engine(communicator, ParallelOptions())
    try:
        # As a step has them: usual ones, of arrays that are not in the caches of a core any more.
        walked = np.zeros(WALKED // 4, np.float32)

        def walk() -> None:
            np.add(walked, 1, out=walked)

        seconds = {
            str(nbytes): measure(engine, communicator, nbytes, SUMS, walk, statistics.median)
            for nbytes in SIZES
        }
        largest = seconds[str(SIZES[-1])]
        fastest = min((n for n in largest if n != "library"), key=largest.__getitem__)
        array = np.zeros(SIZES[-1] // 4, np.float32)
        communicator.gather(None)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(BUSY_ROUNDS):
            engine.run(lambda link: ALLREDUCE[fastest](link, array), fastest, array.nbytes)
        busy = (time.process_time() - cpu) / (time.perf_counter() - wall)
    finally:
        engine.close()
    busy = statistics.mean(communicator.gather(min(1.0, busy)))
    # Within a host ranks copy what others send, and look for it meanwhile: all of it is theirs.
    kind = HOST if hosts == 1 else NETWORK
    return LinkSeconds(kind, ranks, 1.0 if kind == HOST else busy, seconds)


def calibrate(
    communicator: Communicator,
    setup: Setup,
    shares: Sequence[int],
    say: Callable[[str], None] = lambda _: None,
    budget: float = BUDGET,
) -> Calibration:
    """Measure a network on the ranks of this job, which all call it.

    Parameters
    ----------
    communicator : Communicator
        All on one host, or each on another.
    setup : Setup
        The same on all ranks.
    shares : sequence of int
        Images of a rank, ascending.
    say : callable
        Is told how it goes.
    budget : float
        Seconds for the steps.

    Returns
    -------
    Calibration
        The same on all ranks.

    Raises
    ------
    ValueError
        Some ranks share a host and others do not.
    """
    links = measure_links(communicator)
    if links is not None:
        say(f"{links.ranks} ranks: sums of {', '.join(links.seconds)} bytes measured")
    steps: list[StepSeconds] = []
    if communicator.rank == 0:
        steps = measure_steps(setup, shares, say, budget)
    steps = communicator.broadcast(steps)
    crowd = measure_crowd(communicator, setup, steps[-1].images)
    if crowd is not None:
        say(f"{crowd.ranks} ranks at once: {crowd.slowdown:.3f} times as long")
    here = communicator.hosts[0]
    cores = sum(n for rank, n in enumerate(communicator.gather(communicator.cores)) if rank in here)
    optimizer = make_optimizer(setup.network, setup.settings)
    owners = {id(p): n for n, m in setup.network.modules() for p in m.own_parameters().values()}
    nodes = {layer.layer.rpartition(" ")[0]: layer.layer for layer in steps[0].forward}
    settings = setup.settings
    facts = NetworkFacts(
        model=settings.model,
        data=settings.data,
        image_shape=tuple(setup.train_set.image_shape),
        classes=len(setup.train_set.classes),
        images=len(setup.train_set),
        threads=get_num_threads(),
        cores=cores,
        workers=1 if settings.augment or setup.train_set.runs is not None else 0,
        itemsize=optimizer.data.itemsize,
        kept=2 + len(optimizer.state()),
        epochs=settings.epochs,
        batch=settings.batch,
    )
    parameters = tuple(
        ParameterFacts(nodes[owners[id(parameter)]], parameter.data.size)
        for parameter in setup.network.parameters().values()
    )
    machine = communicator.broadcast(machine_report() if communicator.rank == 0 else None)
    found = Calibration(
        machine,
        facts,
        parameters,
        tuple(steps),
        () if crowd is None else (crowd,),
        () if links is None else (links,),
    )
    return communicator.broadcast(found)


def merge(old: Calibration, new: Calibration) -> Calibration:
    """Return what is new, and of the old one what the new one does not have.

    Raises
    ------
    ValueError
        They are of different networks, data or threads; the message names what differs.
    """
    for name in ("model", "data", "threads", "itemsize"):
        mine, theirs = getattr(new.network, name), getattr(old.network, name)
        if mine != theirs:
            raise ValueError(
                f"calibrate: got {name} {mine!r} with a file of {theirs!r}, expected the same, or "
                "another file"
            )
    kinds = {link.kind for link in new.links}
    sizes = {crowd.ranks for crowd in new.crowds}
    return replace(
        new,
        links=(*(link for link in old.links if link.kind not in kinds), *new.links),
        crowds=(*(crowd for crowd in old.crowds if crowd.ranks not in sizes), *new.crowds),
    )
