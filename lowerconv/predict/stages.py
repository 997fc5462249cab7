"""What a rank does in a step of data parallelism, as the strategy decides it: which sum, and when.

The ranges of the buckets, how each is summed and with which priority are decided by the strategy's
own functions (`bucket_ranges`, `steps_of`); here only the network and the links are descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowerconv.parallel.comm.buckets import SMALLEST, bucket_ranges
from lowerconv.parallel.comm.choice import (
    SMALL,
    Chosen,
    candidates,
    chosen_by_options,
    steps_of,
)
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import Calibration, LayerSeconds, ParameterFacts, StepSeconds
from lowerconv.predict.collective_costs import Links, Placement


@dataclass(frozen=True)
class BucketFacts:
    """A bucket of gradients.

    Attributes
    ----------
    number : int
        In the order of leaving.
    nbytes : int
    part : float
        Of all gradients.
    layers : frozenset of str
        That write to it.
    """

    number: int
    nbytes: int
    part: float
    layers: frozenset[str]


@dataclass(frozen=True)
class Stage:
    """Some layers, one after the other, and the buckets at their border.

    Attributes
    ----------
    seconds : float
    buckets : tuple of int
        Forward those that have to come before, backward those that leave behind.
    """

    seconds: float
    buckets: tuple[int, ...] = ()


def make_buckets(
    parameters: Sequence[ParameterFacts], itemsize: int, largest: int, threaded: bool
) -> list[BucketFacts]:
    """Return the buckets, as `parallel.comm.buckets.Buckets` makes them.

    Parameters
    ----------
    parameters : sequence of ParameterFacts
        In the order of the optimizer.
    itemsize, largest : int
        Bytes of an item, and of most buckets.
    threaded : bool
        Whether a thread moves messages.
    """
    bounds = np.cumsum([0, *(parameter.items for parameter in parameters)])
    found = []
    smallest = SMALLEST if threaded else largest
    for number, (begin, end) in enumerate(bucket_ranges(bounds, itemsize, largest, smallest)):
        first = int(np.searchsorted(bounds, begin, "right")) - 1
        last = int(np.searchsorted(bounds, end, "left"))
        layers = frozenset(parameter.layer for parameter in parameters[first:last])
        part = (end - begin) / int(bounds[-1])
        found.append(BucketFacts(number, (end - begin) * itemsize, part, layers))
    return found


def forward_stages(
    layers: Sequence[LayerSeconds], buckets: Sequence[BucketFacts], every: bool
) -> list[Stage]:
    """Return the layers forward, each bucket before the first layer that needs it.

    Parameters
    ----------
    layers : sequence of LayerSeconds
    buckets : sequence of BucketFacts
    every : bool
        Have a stage for each layer, and not only where a bucket is needed.
    """
    stages: list[Stage] = []
    seen: set[int] = set()
    for layer in layers:
        needed = tuple(
            b.number for b in buckets if layer.layer in b.layers and b.number not in seen
        )
        seen.update(needed)
        if needed or every or not stages:
            stages.append(Stage(layer.seconds, needed))
        else:
            stages[-1] = replace(stages[-1], seconds=stages[-1].seconds + layer.seconds)
    return stages


def backward_stages(
    layers: Sequence[LayerSeconds], buckets: Sequence[BucketFacts], every: bool, overlap: bool
) -> list[Stage]:
    """Return the layers backward, each bucket behind the last layer that writes to it.

    None leaves before those with lower numbers; without `overlap` all leave at the end.
    """
    stages: list[Stage] = []
    pending = [set(bucket.layers) for bucket in buckets]
    left, open_seconds = 0, 0.0
    for number, layer in enumerate(layers, 1):
        open_seconds += layer.seconds
        for names in pending:
            names.discard(layer.layer)
        leaving = []
        is_last = number == len(layers)
        while left < len(buckets) and (is_last or (overlap and not pending[left])):
            leaving.append(left)
            left += 1
        if leaving or every or is_last:
            stages.append(Stage(open_seconds, tuple(leaving)))
            open_seconds = 0.0
    return stages


def choose(options: ParallelOptions, links: Links, at: Placement, nbytes: int) -> Chosen:
    """Return how messages up to `nbytes` are summed, as `choice.choose_allreduce` would.

    Raises
    ------
    ValueError
        Nothing is known of the links.
    """
    told = chosen_by_options(options, nbytes)
    if told is not None:
        return told
    names = candidates(at.hosts, at.ranks)
    seconds = {
        size: {name: links.seconds(name, at, size) for name in names}
        for size in sorted({min(SMALL, nbytes), nbytes})
    }
    return Chosen(steps_of(seconds), seconds, "predicted")


def step_at(calibration: Calibration, images: float) -> StepSeconds:
    """Return what the parts of a step take with a number of images of a rank.

    Between two numbers that were measured all times are taken to lie on a line, beyond them on the
    next two's, but never below a share in proportion, nor past one that stays the same.
    """
    steps = calibration.steps
    if len(steps) == 1:
        return _between(steps[0], steps[0], images)
    upper = next((i for i, s in enumerate(steps) if s.images >= images and i), len(steps) - 1)
    return _between(steps[upper - 1], steps[upper], images)


def _between(low: StepSeconds, high: StepSeconds, images: float) -> StepSeconds:
    def value(a: float, b: float) -> float:
        if low.images == high.images:
            return a * images / low.images
        line = a + (b - a) * (images - low.images) / (high.images - low.images)
        if low.images <= images <= high.images:
            return line
        end, known = (a, low.images) if images < low.images else (b, high.images)
        bounds = sorted((end, end * images / known))
        return min(max(line, bounds[0]), bounds[1])

    def layers(a: Sequence[LayerSeconds], b: Sequence[LayerSeconds]) -> tuple[LayerSeconds, ...]:
        pairs = zip(a, b, strict=True)
        return tuple(LayerSeconds(x.layer, value(x.seconds, y.seconds)) for x, y in pairs)

    return StepSeconds(
        images=max(1, round(images)),
        forward=layers(low.forward, high.forward),
        backward=layers(low.backward, high.backward),
        loss=value(low.loss, high.loss),
        update=(low.update + high.update) / 2,  # of the weights, whatever the images
        input=value(low.input, high.input),
        rest=value(low.rest, high.rest),
        spread=(low.spread + high.spread) / 2,
        arena=round(value(low.arena, high.arena)),
    )
