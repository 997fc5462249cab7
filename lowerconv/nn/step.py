"""What layers may need to know about the step that they are part of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Reducer(Protocol):
    """Sums over the ranks that share a batch; `parallel.comm.communicator.Communicator` is one."""

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        """Return the sum of each number over all ranks."""

    def sum_array(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks."""


@dataclass(frozen=True)
class Step:
    """What layers may need to know about the step that they are part of.

    Parameters
    ----------
    training : bool
        Whether `Module.backward` follows, and dropout drops.
    seed, number : int
        The run's seed and the number of the step: with `first_sample` they decide what dropout
        drops.
    first_sample : int
        Place of ``x[0]`` in the global batch, so that a batch split over ranks loses the same
        activations as a whole one.
    input_grad : bool or tuple of bool
        Whether `Module.backward` returns the gradients of the inputs too, or of which.
    communicator : Reducer, optional
        Of the ranks that share a batch, for layers that look at all of it.
    runs : tuple of (int, int), optional
        Where the samples of ``x`` are not neighbours in the global batch: for each run of
        neighbours the place of its first sample, and its length. `first_sample` is not used then.
    """

    training: bool = False
    seed: int = 0
    number: int = 0
    first_sample: int = 0
    input_grad: bool | tuple[bool, ...] = False
    communicator: Reducer | None = None
    runs: tuple[tuple[int, int], ...] | None = None

    def places(self, count: int) -> np.ndarray:
        """Return the places of samples in the global batch.

        Parameters
        ----------
        count : int
            Samples of this rank.

        Returns
        -------
        ndarray, (count,), int64

        Raises
        ------
        ValueError
            `runs` are of another number of samples.
        """
        if self.runs is None:
            return np.arange(self.first_sample, self.first_sample + count, dtype=np.int64)
        places = [np.arange(first, first + n, dtype=np.int64) for first, n in self.runs]
        found = np.concatenate([np.empty(0, np.int64), *places])
        if len(found) != count:
            raise ValueError(f"runs: got places of {len(found)} samples, expected {count}")
        return found

    def key(self, *numbers: int) -> np.uint64:
        """Return what random numbers of this step begin with.

        Parameters
        ----------
        *numbers : int
            What tells those who draw apart; trailing zeros do not.

        Returns
        -------
        uint64
        """
        return random_key(self.seed, self.number, *numbers)


def random_key(*numbers: int) -> np.uint64:
    """Return 64 bits that any of some numbers, not negative, changes."""
    words = np.random.SeedSequence(numbers).generate_state(2)
    return np.uint64(int(words[0]) << 32 | int(words[1]))


INFERENCE = Step()
