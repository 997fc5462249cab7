"""What a trained network must know of the images it was trained on."""

from __future__ import annotations

from dataclasses import dataclass

from lowerconv.data.normalizer import Normalizer
from lowerconv.data.source import Source


@dataclass(frozen=True)
class Inputs:
    """The images that a network takes, and what its scores are of; kept in checkpoints.

    Attributes
    ----------
    image_shape : tuple of int
        C, H, W.
    stored_size : tuple of int
        Height and width that images are resized to; the network takes the middle of them.
    classes : tuple of str
        Their names, in order.
    mean, deviation : tuple of float
        Of each channel, on a scale from 0 to 1: what is subtracted and divided by.
    """

    image_shape: tuple[int, ...]
    stored_size: tuple[int, ...]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, dataset: Source) -> Inputs:
        """Return those of a set of training images."""
        normalizer = Normalizer(dataset)
        return cls(
            dataset.image_shape,
            dataset.stored_size,
            dataset.classes,
            tuple(normalizer.mean.tolist()),
            tuple(normalizer.deviation.tolist()),
        )

    @classmethod
    def from_json(cls, saved: dict[str, list]) -> Inputs:
        """Return what was saved in a checkpoint."""
        return cls(**{name: tuple(value) for name, value in saved.items()})

    def normalizer(self) -> Normalizer:
        """Return what makes float32 of the bytes of such images."""
        return Normalizer.of(self.mean, self.deviation)
