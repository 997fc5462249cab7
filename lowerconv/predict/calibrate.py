"""Measures what a calibration has: a few real steps, recorded as ``train --timeline`` records them.

Steps are those of the training loop, with the loader and the callbacks of a run, of a rank that
computes alone.  Then all ranks of the job compute at once, and sum arrays, as a run measures at its
start which algorithm is the fastest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.data import Augment
from lowerconv.data.loader import Loader
from lowerconv.nn.loss import LossResult
from lowerconv.parallel.comm.choice import SMALL, measure
from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.listener import LOSS, UPDATE
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.parallel.trace.chrome import BACKWARD, DATA, FORWARD, RankTrace
from lowerconv.parallel.trace.timeline import Timeline
from lowerconv.predict.calibration import (
    HOST,
    NETWORK,
    Calibration,
    Crowd,
    LayerSeconds,
    LinkSeconds,
    NetworkFacts,
    ParameterFacts,
    StepSeconds,
)
from lowerconv.runtime.report import machine_report
from lowerconv.runtime.threads import get_num_threads
from lowerconv.train.callback import Callback, StatusNotes
from lowerconv.train.loop import train_epoch
from lowerconv.train.recording import TimelineSteps
from lowerconv.train.setup import Setup, make_optimizer

SETTLE = 3  # steps that are not counted: kernels are compiled, memory is taken
LEAST, MOST = 4, 200  # steps that are timed
RECORDED = 4  # steps whose layers are timed
SECONDS = 2.0  # for which steps are timed, if there are not enough before
TURNS = 2  # of a rank alone, and of all at once
BUDGET = 40.0  # seconds for all numbers of images: none begins that would take longer
SIZES = (SMALL, 1 << 21)  # bytes of the arrays that are summed
BUSY_ROUNDS = 5  # sums by which is found out who is busy meanwhile


class _Enough(Exception):
    """Enough steps have been made."""


class _Clock(Callback):
    """Notes when steps end, and ends the epoch when there are enough."""

    def __init__(self, settle: int, least: int, most: int, seconds: float) -> None:
        self.settle, self.least, self.most, self.seconds = settle, least, most, seconds
        self.moments: list[float] = []

    def on_batch_end(self, samples: int, result: LossResult, left: int) -> None:
        """Note the moment."""
        self.moments.append(time.perf_counter())
        timed = len(self.moments) - 1 - self.settle
        if timed >= self.most or (
            timed >= self.least and self.moments[-1] - self.moments[self.settle] >= self.seconds
        ):
            raise _Enough

    def steps(self) -> np.ndarray:
        """Return the seconds of the steps that count."""
        return np.diff(self.moments[self.settle :])


@not_copied("make another from its arguments")
class Trial:
    """A network that is trained alone by this rank, as many steps as are asked for.

    Parameters
    ----------
    setup : Setup
        What is trained.
    images : int
        Of a step.
    """

    def __init__(self, setup: Setup, images: int) -> None:
        self._setup, self.images = setup, images
        communicator = Communicator()
        self.strategy = DataParallel(
            setup.network,
            partial(make_optimizer, settings=setup.settings),
            communicator,
            ParallelOptions(),
            setup.train_set.image_shape,
        )
        augment = setup.settings.augment
        self.loader = Loader(
            setup.train_set,
            setup.inputs.normalizer(),
            images,
            augment=Augment.parse(augment) if augment else None,
        )
        self._handle = communicator.status.observe(setup.network)
        self._callbacks = [StatusNotes(communicator.status)]
        self.strategy.start()

    def run(self, *callbacks: Callback) -> None:
        """Train until a callback says that it is enough."""
        seed, smoothing = self._setup.settings.seed, self._setup.settings.label_smoothing
        try:
            for epoch in range(1 + MOST):
                train_epoch(
                    self.strategy,
                    self.loader,
                    epoch,
                    seed,
                    lambda _: 0.0,  # weights stay as they are
                    (*self._callbacks, *callbacks),
                    label_smoothing=smoothing,
                )
        except _Enough:
            pass

    def times(self, seconds: float = SECONDS) -> np.ndarray:
        """Return the seconds of some steps."""
        clock = _Clock(SETTLE, LEAST, MOST, seconds)
        self.run(clock)
        return clock.steps()

    def record(self) -> RankTrace:
        """Return what the parts of some steps took."""
        steps = TimelineSteps()
        steps.timeline = timeline = Timeline(SETTLE, RECORDED)
        self.strategy.listen(timeline)
        timeline.start(None)
        self.run(steps, _Clock(SETTLE, RECORDED, RECORDED, 0.0))
        timeline.detach()
        trace = timeline.finish(self.strategy.communicator, None, "")
        assert trace is not None
        return trace.ranks[0]

    def close(self) -> None:
        """End threads."""
        self._handle.remove()
        self.strategy.close()
        self.loader.close()


def measure_step(trial: Trial) -> StepSeconds:
    """Return what the parts of a step take; the rank computes alone."""
    whole = trial.times()
    busy = trial.loader.report()
    trace = trial.record()
    mean = float(whole.mean())  # an epoch has the slow steps too
    quarter, three = np.quantile(whole, (0.25, 0.75))
    parts = {kind: _medians(trace, kind) for kind in (DATA, FORWARD, LOSS, BACKWARD, UPDATE)}
    total = sum(sum(found.values()) for found in parts.values())
    scale = min(1.0, mean / total)  # what recording took aside

    def layers(kind: str) -> tuple[LayerSeconds, ...]:
        return tuple(LayerSeconds(name, scale * taken) for name, taken in parts[kind].items())

    made = scale * sum(parts[DATA].values())
    ahead = busy.busy_seconds / max(1, busy.batches)
    memory = trial.strategy.network.memory_report(
        (trial.images, *trial.strategy.image_shape), training=True
    )
    return StepSeconds(
        images=trial.images,
        forward=layers(FORWARD),
        backward=layers(BACKWARD),
        loss=scale * sum(parts[LOSS].values()),
        update=scale * sum(parts[UPDATE].values()),
        input=ahead if trial.loader.workers else made,
        rest=max(0.0, mean - scale * total),
        # Of normal numbers the middle half is 1.349 standard deviations wide.
        spread=min(1.0, float(three - quarter) / 1.349 / mean),
        arena=memory.arena + memory.workspace,
    )


def _medians(trace: RankTrace, kind: str) -> dict[str, float]:
    """Return the median seconds of all that is of a kind, by name, in the order of a step."""
    found: dict[str, list[float]] = {}
    for step in trace.steps:
        taken: dict[str, float] = {}
        for event in trace.events:
            if event.kind == kind and step.begin <= event.begin and event.end <= step.end:
                taken[event.name] = taken.get(event.name, 0.0) + 1e-9 * (event.end - event.begin)
        for name, seconds in taken.items():
            found.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


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
        seconds = found[-1].seconds + found[-1].input
        say(f"{images} images: {1e3 * seconds:.2f} ms a step of one rank alone")
    return found


def measure_crowd(communicator: Communicator, setup: Setup, images: int) -> Crowd | None:
    """Return how much slower ranks of rank 0's host are when they compute at once.

    Compared with rank 0 alone, in turns; None where it has no neighbours.  All ranks call it.
    """
    here = next(ranks for ranks in communicator.hosts if 0 in ranks)
    if len(here) == 1:
        return None
    trial = Trial(setup, images)
    alone: list[float] = []
    together: list[float] = []
    try:
        trial.run(_Clock(SETTLE, 1, 1, 0.0))  # all have compiled and taken memory
        for _ in range(TURNS):  # in turns: what else the machine does is alike
            communicator.gather(None)
            if communicator.rank == 0:
                alone.append(float(trial.times(SECONDS / TURNS).mean()))
            communicator.gather(None)
            together.append(float(trial.times(SECONDS / TURNS).mean()))
    finally:
        trial.close()
    everywhere = communicator.gather((sum(alone), sum(together)))
    slowed = statistics.mean(everywhere[rank][1] for rank in here)
    return Crowd(len(here), max(1.0, slowed / everywhere[0][0]))


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
        seconds = {str(nbytes): measure(engine, communicator, nbytes) for nbytes in SIZES}
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
