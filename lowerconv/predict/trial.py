"""Some steps of a network on a rank that computes alone, timed and recorded as runs are.

Steps are those of the training loop, with the loader and the callbacks of a run; their layers are
timed by the timeline, as ``train --timeline`` records it.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.data import Augment
from lowerconv.data.loader import Loader
from lowerconv.nn.loss import LossResult
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.listener import LOSS, UPDATE
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.parallel.trace.chrome import BACKWARD, DATA, FORWARD, RankTrace
from lowerconv.parallel.trace.timeline import Timeline
from lowerconv.predict.calibration import LayerSeconds, StepSeconds
from lowerconv.predict.lateness import spread_of
from lowerconv.train.callback import Callback, StatusNotes
from lowerconv.train.loop import train_epoch
from lowerconv.train.recording import TimelineSteps
from lowerconv.train.setup import Setup, make_optimizer

SETTLE = 3  # steps that are not counted: kernels are compiled, memory is taken
LEAST, MOST = 4, 200  # steps that are timed
RECORDED = 4  # steps whose layers are timed
SECONDS = 2.0  # for which steps are timed, if there are not enough before


class _Enough(Exception):
    """Enough steps have been made."""


class StepClock(Callback):
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
        clock = StepClock(SETTLE, LEAST, MOST, seconds)
        self.run(clock)
        return clock.steps()

    def record(self) -> RankTrace:
        """Return what the parts of some steps took."""
        steps = TimelineSteps()
        steps.timeline = timeline = Timeline(SETTLE, RECORDED)
        self.strategy.listen(timeline)
        timeline.start(None)
        self.run(steps, StepClock(SETTLE, RECORDED, RECORDED, 0.0))
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
        spread=spread_of(whole),
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
