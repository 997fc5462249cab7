"""Training with fixed-point numbers, whose rounding is stochastic or to the nearest.

Gupta, Agrawal, Gopalakrishnan, Narayanan, "Deep learning with limited numerical precision" (2015).
As there products are added up without rounding, and what they make is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lowerconv.nn.frame import Frame, Tensor
from lowerconv.nn.layer import Layer
from lowerconv.nn.optim.optimizer import UpdateRounding, Weights
from lowerconv.nn.step import Step, random_key
from lowerconv.ops.fixed_point import Rounding, round_images, round_range
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.threads import run

BITS = 24  # at most: float32 has all such numbers
FURTHEST = 64  # bits that the point may be away from the first

# Who draws, beside the numbers of the network's nodes.
_FORWARD, _BACKWARD, _GRADIENTS, _WEIGHTS = 1, 2, 3, 4


@dataclass(frozen=True)
class FixedPoint:
    """The format <IL, FL>: numbers from -2^(IL-1) to 2^(IL-1) - 2^-FL, in steps of 2^-FL.

    Parameters
    ----------
    integer_bits : int
        IL, the sign among them; negative where all numbers are small.
    fraction_bits : int
        FL.

    Raises
    ------
    ValueError
        Both together are not 2 to 24, which float32 can represent.
    """

    integer_bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        bits = self.integer_bits + self.fraction_bits
        if not 2 <= bits <= BITS or abs(self.integer_bits) > FURTHEST:
            raise ValueError(
                f"got ({self.integer_bits}, {self.fraction_bits}), expected IL and FL, together 2 "
                f"to {BITS} bits"
            )

    def rounding(self, key: np.uint64 | None = None) -> Rounding:
        """Return how kernels round to this format.

        Parameters
        ----------
        key : uint64, optional
            Of stochastic rounding; without, to the nearest.

        Returns
        -------
        Rounding
        """
        half = 2.0 ** (self.integer_bits + self.fraction_bits - 1)
        scale = 2.0**self.fraction_bits
        stochastic = key is not None
        return Rounding(scale, 1 / scale, -half, half - 1, key or np.uint64(0), stochastic)

    def round(self, values: np.ndarray, key: np.uint64 | None = None) -> None:
        """Round an array in place.

        Parameters
        ----------
        values : ndarray
            Contiguous.
        key : uint64, optional
            As of `rounding`.
        """
        run(round_range, values.reshape(-1), 0, values.size, tuple(self.rounding(key)))

    def __str__(self) -> str:
        return f"<{self.integer_bits}, {self.fraction_bits}>"


class RoundedOperand(Layer):
    """Rounds what a layer reads, and the gradient that it sends back, straight through.

    Parameters
    ----------
    values, gradients : FixedPoint
    stochastic : bool
        In training; at inference values are rounded to the nearest.
    """

    in_place = True

    def __init__(self, values: FixedPoint, gradients: FixedPoint, stochastic: bool) -> None:
        super().__init__()
        self.values, self.gradients, self.stochastic = values, gradients, stochastic

    def compute(self, frame: Frame, step: Step) -> None:
        """Round the values."""
        key = step.key(frame.node_number, _FORWARD) if self.stochastic and step.training else None
        _round(frame.x, frame.y, step, self.values.rounding(key), False)

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Round the gradient."""
        if frame.dx is not None:
            key = step.key(frame.node_number, _BACKWARD) if self.stochastic else None
            _round(frame.gradient, frame.dx, step, self.gradients.rounding(key), frame.adds[0])


def _round(x: Tensor, y: Tensor, step: Step, rounding: Rounding, adding: bool) -> None:
    run(round_images, x.images, y.images, step.places(x.N), tuple(rounding), adding)


@dataclass(frozen=True)
class RoundedUpdates(UpdateRounding):
    """What makes an optimizer's weights fixed-point numbers: its `rounding`.

    There are no other weights than these: an update that is less than half a step is lost where
    rounding is to the nearest, and is made with some probability where it is stochastic. Gradients
    are rounded before, when those of all ranks have been summed. What the optimizer keeps beside
    the weights, such as velocities, is not rounded.

    Parameters
    ----------
    weights, gradients : FixedPoint
    stochastic : bool
    seed : int
    """

    weights: FixedPoint
    gradients: FixedPoint
    stochastic: bool
    seed: int = 0

    def round_gradients(self, team: TeamHandle, weights: Weights, update: int) -> None:
        """Round the gradients of a range in place."""
        self._round(team, weights.grad, weights, self.gradients, (update, 0, _GRADIENTS))

    def round_weights(self, team: TeamHandle, weights: Weights, update: int) -> None:
        """Round the weights of a range in place."""
        self._round(team, weights.data, weights, self.weights, (update, 0, _WEIGHTS))

    def _round(
        self,
        team: TeamHandle,
        values: np.ndarray,
        weights: Weights,
        form: FixedPoint,
        who: tuple[int, ...],
    ) -> None:
        key = random_key(self.seed, *who) if self.stochastic else None
        round_range(team, values, weights.begin, weights.end, tuple(form.rounding(key)))
