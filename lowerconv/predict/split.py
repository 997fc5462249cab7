"""How long a step takes with model parallelism, and with OWT: layers that are split, replayed.

What a rank does in them is recorded from the network (`recorded`).  Its part of a layer takes as
much of the measured time as it has of the layer's weights, or else of its result, on a number of
samples that is that of a chunk of the batch, or of all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from lowerconv.data.order import share
from lowerconv.parallel.comm.engine import AT_ONCE
from lowerconv.parallel.comm.overlap import has_thread
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.sharding.batch_exchange import Chunk, chunks_of_step, pieces_of
from lowerconv.predict.calibration import Calibration, LayerSeconds, StepSeconds
from lowerconv.predict.collective_costs import Cluster
from lowerconv.predict.programs import (
    COPIED,
    SETTLE,
    STEPS,
    Marks,
    Work,
    backward,
    bucket_bytes,
    forward,
    make_work,
    mark,
    replay_in_step,
)
from lowerconv.predict.recorded import (
    Awaited,
    Begun,
    LayerWork,
    Recorded,
    SplitRecord,
    record_split,
)
from lowerconv.predict.replay import Compute, Look, Replay, Request, Sum, Wait
from lowerconv.predict.stages import step_at

if TYPE_CHECKING:
    from lowerconv.predict.step import StepPrediction

LABEL = 8  # bytes


@dataclass(frozen=True)
class SplitLayers:
    """This rank's part of layers that are split, and what it costs.

    Attributes
    ----------
    record : SplitRecord
    calibration : Calibration
    cluster : Cluster
    slower : float
        By which all that is computed is.
    """

    record: SplitRecord
    calibration: Calibration
    cluster: Cluster
    slower: float

    @cached_property
    def items(self) -> int:
        """Of all parameters of the whole network."""
        return sum(parameter.items for parameter in self.calibration.parameters)

    @cached_property
    def update(self) -> float:
        """Seconds of the update of this rank's parts."""
        return self.slower * self.calibration.steps[0].update * self.record.items / self.items

    def copying(self, nbytes: float) -> Compute:
        """Return a copy of so many bytes, into messages or out of them."""
        whole = self.calibration.network.itemsize * self.items
        return Compute(self.slower * COPIED * self.calibration.steps[0].update * nbytes / whole)

    def begin(
        self,
        replay: Replay,
        name: str,
        algorithm: str,
        nbytes: int,
        priority: float | None = None,
    ) -> Sum:
        """Submit a collective."""
        messages = self.cluster.links.messages(algorithm, self.cluster.at, nbytes)
        task = Sum(name, messages, priority, nbytes)
        replay.submit(task)
        return task

    def run(self, replay: Replay, recorded: Sequence[Recorded], samples: int) -> Iterator[Request]:
        """Yield what the main thread does in the layers, forward or backward."""
        step = step_at(self.calibration, samples)
        seconds = {
            (layer.layer, is_backward): self.slower * layer.seconds
            for is_backward, layers in ((False, step.forward), (True, step.backward))
            for layer in layers
        }
        tasks: dict[Begun, Sum] = {}
        for event in recorded:
            if isinstance(event, LayerWork):
                yield Compute(event.share * seconds.get((event.layer, event.backward), 0.0))
            elif isinstance(event, Begun):
                nbytes = samples * event.nbytes
                if event.algorithm != "direct":  # which sums in place
                    yield self.copying(nbytes)
                tasks[event] = self.begin(
                    replay, event.name, event.algorithm, nbytes, event.priority
                )
            elif isinstance(event, Awaited):
                yield Wait(tasks.pop(event.begun))
            else:
                yield Look()


def model_steps(
    layers: SplitLayers, batch: int, before: float, loss: float, replay: Replay, marks: Marks
) -> Iterator[Request]:
    """Yield what the main thread of `ModelParallel` does."""
    for _ in range(SETTLE + STEPS):
        mark(replay, marks)
        yield Compute(before)
        yield from layers.run(replay, layers.record.forward, batch)
        yield Compute(loss)
        yield from layers.run(replay, layers.record.backward, batch)
        yield Compute(layers.update)
    mark(replay, marks)


def owt_steps(
    layers: SplitLayers,
    work: Work,
    chunks: Sequence[tuple[Chunk, bool]],
    replay: Replay,
    marks: Marks,
) -> Iterator[Request]:
    """Yield what the main thread of `OWT` does; the work is that before the border."""
    missing: dict[int, Sum] = {}
    batch = sum(chunk.size for chunk, _ in chunks)
    for _ in range(SETTLE + STEPS):
        mark(replay, marks)
        yield Compute(work.before)
        labels = layers.begin(replay, "labels", "all-gather", LABEL * batch)
        yield from forward(replace(work, before=0.0), missing)
        yield Wait(labels)
        yield from _chunk_by_chunk(layers, chunks, replay)
        yield from backward(work, replay, missing)
    mark(replay, marks)


def _chunk_by_chunk(
    layers: SplitLayers, chunks: Sequence[tuple[Chunk, bool]], replay: Replay
) -> Iterator[Request]:
    """Yield what is done after the border: as `OWT._train_back` and `BatchExchange`."""
    record, ranks = layers.record, layers.cluster.at.ranks

    def cross(chunk: Chunk) -> Sum:
        algorithm = "all-gather" if chunk.owner is None else "broadcast"
        return layers.begin(replay, "border", algorithm, chunk.size * record.border)

    following = cross(chunks[0][0])
    back: list[Sum | None] = [None, None]
    for number, (chunk, ends_update) in enumerate(chunks):
        nbytes = chunk.size * record.border
        yield Wait(following)
        if number + 1 < len(chunks):
            yield layers.copying(nbytes / ranks)
            following = cross(chunks[number + 1][0])
        yield from layers.run(replay, record.forward, chunk.size)
        # That of the chunk, and that of this rank's samples in it.
        loss = step_at(layers.calibration, chunk.size).loss * (1 + 1 / ranks)
        yield Compute(layers.slower * loss)
        yield from layers.run(replay, record.backward, chunk.size)
        earlier = back[number % 2]
        if earlier is not None:
            yield Wait(earlier)
        yield layers.copying(nbytes)
        algorithm = "reduce-scatter" if chunk.owner is None else "reduce"
        back[number % 2] = layers.begin(replay, "gradient", algorithm, nbytes)
        if ends_update:
            yield Compute(layers.update)
    for task in back:
        if task is not None:
            yield Wait(task)


def of_split(
    alone: StepPrediction,
    calibration: Calibration,
    cluster: Cluster,
    options: ParallelOptions,
    step: StepSeconds,
    slower: float,
) -> StepPrediction:
    """Return a step whose ranks have parts of layers, of one in which a rank has all of them.

    Parameters
    ----------
    alone : StepPrediction
    calibration : Calibration
    cluster : Cluster
    options : ParallelOptions
        Of strategy ``model`` or ``owt``.
    step : StepSeconds
        Of the images that a rank has.
    slower : float
        By which all parts of the step are.

    Raises
    ------
    ValueError
        A network that cannot be split so, options that do not go together, or links of which
        nothing is known.
    """
    facts, at = calibration.network, cluster.at
    owt = options.strategy == "owt"
    border = (options.owt_border or "") if owt else None
    if len(facts.image_shape) != 3:
        raise ValueError(f"image_shape: got {facts.image_shape}, expected (C, H, W)")
    record = record_split(facts.model, facts.image_shape, facts.classes, border, at.ranks)
    unknown = [layer.layer for layer in step.forward if layer.layer not in record.layers]
    if unknown:
        raise ValueError(
            f"steps: got layer {unknown[0]!r}, expected those of {facts.model!r}, which is split"
        )
    layers = SplitLayers(record, calibration, cluster, slower)
    before = alone.input + slower * step.rest
    samples = [alone.batch]
    if owt:
        counts = [len(share(alone.batch, rank, at.ranks)) for rank in range(at.ranks)]
        pieces = pieces_of(options, at.ranks)
        chunks = chunks_of_step(counts, options.owt_scheme, pieces, options.owt_updates)
        samples = [chunk.size for chunk, _ in chunks]
        mine = [p for p in calibration.parameters if p.layer in record.front]
        part = sum(parameter.items for parameter in mine) / layers.items
        front = replace(
            step,
            forward=_before_border(step.forward, record),
            backward=_before_border(step.backward, record),
            update=part * step.update,
        )
        work = make_work(calibration, mine, front, slower, before, cluster, options)
        steps = partial(owt_steps, layers, work, chunks)
    else:
        mine = []
        steps = partial(model_steps, layers, alone.batch, before, slower * step.loss)
    threaded = has_thread(options, cluster.spare, at.hosts)
    seconds, exposed, in_flight, _ = replay_in_step(steps, threaded, cluster.spare)
    gradients = facts.itemsize * sum(parameter.items for parameter in mine)
    return replace(
        alone,
        seconds=seconds,
        compute=seconds - exposed - alone.input,
        exposed=exposed,
        in_flight=in_flight,
        nbytes=(
            facts.kept * (gradients + facts.itemsize * record.items)
            + _activations(record, step, max(samples))
            + AT_ONCE * min(bucket_bytes(options), gradients)
        ),
        algorithms=tuple(dict.fromkeys(work.algorithms)) if owt else (),
    )


def _before_border(layers: Sequence[LayerSeconds], record: SplitRecord) -> tuple[LayerSeconds, ...]:
    return tuple(
        LayerSeconds(layer.layer, record.front[layer.layer] * layer.seconds)
        for layer in layers
        if layer.layer in record.front
    )


def _activations(record: SplitRecord, step: StepSeconds, samples: int) -> int:
    """Return the bytes of what layers compute, and of what is sent of it."""
    whole, front, split = record.arenas
    arena = step.arena * (front + split * samples / step.images) / whole
    sent = [
        event.nbytes for event in (*record.forward, *record.backward) if isinstance(event, Begun)
    ]
    # At the border two chunks come and two gradients go, and that of the share is put together.
    return round(arena + AT_ONCE * samples * max(sent, default=0)) + record.border * (
        4 * samples + step.images
    )
