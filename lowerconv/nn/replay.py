"""Inference without a step into Python for each node: their launches, captured and replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from lowerconv.copying import not_copied
from lowerconv.nn.conversion import compute, definer
from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.step import Step
from lowerconv.runtime.capture import Capture
from lowerconv.runtime.threads import get_num_threads, parallel_region

if TYPE_CHECKING:
    from lowerconv.nn.layer import Layer

LAUNCHES = 4  # of a node, beside one for each operand: a convolution makes up to three


class _Part(NamedTuple):
    """The launches ``first .. last``, which some steps in a row have made, or one step to compute.

    The steps are kept: what launches read is theirs.
    """

    first: int
    last: int
    steps: list[tuple[Layer, Frame]]


@not_copied("copy the network, which plans anew")
class Replay:
    """Steps of a program that launch the same kernels on the same memory at each inference.

    Parameters
    ----------
    steps : list of (Layer, Frame)
        In their order; they are computed now.
    step : Step
    inputs : collection of Tensor
        Those whose memory is another at each call: steps that read them are computed.
    before : Replay, optional
        Of the same steps: this one has room for as many launches, and no more.
    """

    complete: bool  # whether all launches were captured
    _capture: Capture

    def __init__(
        self,
        steps: list[tuple[Layer, Frame]],
        step: Step,
        inputs: Collection[Tensor],
        before: Replay | None = None,
    ) -> None:
        self._capture = capture = (
            before._capture.another()
            if before is not None and before.complete
            else Capture(sum(LAUNCHES + len(frame.xs) for _, frame in steps))
        )
        self._parts: list[_Part] = []
        self.complete = True
        given = set(map(id, inputs))
        for layer, frame in steps:
            read = (*frame.xs, frame.residual)
            if given.intersection(map(id, read)) or not _is_capturable(layer, frame):
                compute(layer, frame, step)
                self._parts.append(_Part(0, 0, [(layer, frame)]))
                continue
            first = capture.count
            self.complete &= capture.record(_computing(layer, frame, step))
            nothing_to_do = (layer.is_view or layer.is_concatenation) and all(frame.views)
            if capture.count == first and not nothing_to_do:  # it works in some other way
                self._parts.append(_Part(0, 0, [(layer, frame)]))
                continue
            latest = self._parts[-1] if self._parts else None
            if latest is not None and latest.last == first and latest.last > latest.first:
                both = [*latest.steps, (layer, frame)]
                self._parts[-1] = _Part(latest.first, capture.count, both)
            else:
                self._parts.append(_Part(first, capture.count, [(layer, frame)]))

    @property
    def valid(self) -> bool:
        """Whether what launches name is still there, beside the memory of the program."""
        return self.complete and self._capture.valid

    def same_as(self, other: Replay) -> bool:
        """Return whether the steps have launched the same another time.

        What a handler of a signal computes between two of them is in one of two captures only.
        """
        return self._capture.same_as(other._capture)

    def run(self, step: Step) -> None:
        """Compute all steps again."""
        for first, last, steps in self._parts:
            if last > first:
                with parallel_region(get_num_threads()) as team:
                    if self._capture.valid and self._capture.fits(team, first, last):
                        self._capture.replay(team, first, last)
                        continue
            for layer, frame in steps:
                compute(layer, frame, step)


def _computing(layer: Layer, frame: Frame, step: Step) -> Callable[[], None]:
    return lambda: compute(layer, frame, step)


def _is_capturable(layer: Layer, frame: Frame) -> bool:
    """Return whether a layer says so of its `compute`, and not of that of a class it is made of."""
    kind: Any = type(layer)
    return _says(kind) and layer.is_capturable(frame)


@cache
def _says(kind: Any) -> bool:
    return issubclass(definer(kind, "is_capturable"), definer(kind, "compute"))
