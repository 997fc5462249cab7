"""What takes frames, and answers them: classifiers, networks on whole frames, ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lowerconv.cli.network_inputs import picture_layout
from lowerconv.copying import not_copied
from lowerconv.data.frames import Taker
from lowerconv.data.normalizer import Normalizer
from lowerconv.data.picture import colours, damage_told, decode
from lowerconv.nn.module import Module
from lowerconv.onnx.network import OnnxNetwork
from lowerconv.printable import printable
from lowerconv.train.classifier import Classifier, softmax

SIZES = 4  # of frames whose plans, with copies of the weights, are kept


class Answerer(Taker, Protocol):
    """A network that frames go through, one at a time."""

    def answer(self, pixels: np.ndarray) -> str:
        """Return what it makes of a frame, in words on one line."""


@not_copied("make another from its arguments")
class Whole:
    """A network that takes frames of any size, as they are.

    Parameters
    ----------
    network : Module
        Of images (N, C, H, W); it is compiled for each size of frames, as it is then.
    normalizer : Normalizer
    classes : sequence of str
        Their names where the network gives scores of each; none where it gives something else.
    """

    def __init__(
        self, network: Module, normalizer: Normalizer, classes: Sequence[str] = ()
    ) -> None:
        self.network, self.normalizer, self.classes = network, normalizer, classes
        self._compiled: dict[tuple[int, ...], Callable[[np.ndarray], Any]] = {}

    def read(self, path: Path) -> np.ndarray:
        """Return an image file, (C, H, W), uint8."""
        with damage_told(path):
            return self.take(np.asarray(decode(path)))

    def take(self, pixels: np.ndarray) -> np.ndarray:
        """Return RGB pixels (H, W, 3) as (C, H, W)."""
        if len(self.normalizer.table) == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
        return np.array(pixels.transpose(2, 0, 1), order="C")

    def answer(self, pixels: np.ndarray) -> str:
        """Return the most probable class, or what the result is like."""
        x = self.normalizer(pixels[None], np.zeros(1, np.int64))
        compute = self._compiled.pop(x.shape, None) or self._compile(x.shape)
        while len(self._compiled) >= SIZES:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[x.shape] = compute  # the latest is last
        scores = compute(x)
        if self.classes and scores.shape == (1, len(self.classes)):
            (row,) = softmax(scores)
            best = int(row.argmax())
            return f"{row[best]:.2%} {printable(self.classes[best])}"
        return describe(scores)

    def _compile(self, shape: tuple[int, ...]) -> Callable[[np.ndarray], Any]:
        try:
            return self.network.compile(shape)
        except (ValueError, TypeError) as error:
            size = "x".join(map(str, shape[1:]))
            raise ValueError(f"the network does not take frames of {size}: {error}") from error


class Resized(Whole):
    """A trained classifier, whose frames are resized and cropped as in training.

    Parameters
    ----------
    classifier : Classifier
    """

    def __init__(self, classifier: Classifier) -> None:
        inputs = classifier.inputs
        super().__init__(classifier.network, inputs.normalizer(), inputs.classes)
        self._classifier = classifier

    def read(self, path: Path) -> np.ndarray:
        """Return an image file as the network takes it."""
        return self._classifier.read(path)

    def take(self, pixels: np.ndarray) -> np.ndarray:
        """Return RGB pixels as the network takes them."""
        return self._classifier.prepare(pixels)


@not_copied("make another from its arguments")
class Onnx:
    """A network from an ONNX file: frames are resized to what it declares, and are 0 to 1.

    Parameters
    ----------
    network : OnnxNetwork

    Raises
    ------
    ValueError
        It takes no pictures.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        self.network, self.layout = network, picture_layout(network)
        # Bytes to numbers from 0 to 1, on all threads.
        self._normalizer = Normalizer.of(*([n] * self.layout.channels for n in (0.0, 1.0)))

    def read(self, path: Path) -> np.ndarray:
        """Return an image file as the network takes it, in bytes."""
        with damage_told(path):
            return self._take(decode(path))

    def take(self, pixels: np.ndarray) -> np.ndarray:
        """Return RGB pixels as the network takes them, in bytes."""
        layout, (H, W) = self.layout, pixels.shape[:2]
        size = layout.width or W, layout.height or H
        if layout.channels == 1:
            return self._take(Image.fromarray(pixels))
        if size != (W, H):
            resized = [c.resize(size, Image.Resampling.BILINEAR) for c in colours(pixels)]
            return self._take(Image.merge("RGB", resized))
        return np.array(pixels if layout.last else pixels.transpose(2, 0, 1), order="C")

    def _take(self, image: Image.Image) -> np.ndarray:
        pixels = self.layout.pixels(image)
        return np.array(pixels if self.layout.last else pixels.transpose(2, 0, 1), order="C")

    def answer(self, pixels: np.ndarray) -> str:
        """Return what each output is like."""
        if self.layout.last or self.layout.dtype != np.float32:
            x = self.layout.values(pixels)[None]
        else:
            x = self._normalizer(pixels[None], np.zeros(1, np.int64))
        results = self.network(x)
        results = results if isinstance(results, tuple) else (results,)
        named = zip(self.network.output_names, results, strict=True)
        last = self.layout.last
        return "; ".join(f"{printable(name)}: {describe(y, last)}" for name, y in named)


def describe(array: np.ndarray, last: bool = False) -> str:
    """Return what a result is like: of scores the largest; of maps the one of largest mean.

    Parameters
    ----------
    array : ndarray
    last : bool
        Whether the channels of maps are their last axis.
    """
    text = f"{array.dtype} {'x'.join(map(str, array.shape))}"
    if array.dtype.kind not in "fiu" or not array.size or array.ndim not in (2, 4):
        return text
    if len(array) > 1 or array.shape[-1 if last else 1] == 1:
        return text
    means, what = array[0], "score"
    if array.ndim == 4:
        means, what = means.mean((0, 1) if last else (1, 2), dtype=np.float64), "mean"
    best = int(means.argmax())
    return f"{text}, largest {what} {means[best]:.4g} of {best}"


def open_network(path: Path, whole: bool) -> Answerer:
    """Return the network of a file.

    Parameters
    ----------
    path : Path
        Of an ONNX file where its name ends so, else of a checkpoint.
    whole : bool
        Whether the network of a checkpoint takes frames as they are.

    Raises
    ------
    ValueError, ImportError, OSError
        The file is none of these, or the network takes no pictures.
    """
    if path.suffix.lower() == ".onnx":
        from lowerconv.onnx import load

        if whole:
            raise ValueError("--whole: is for checkpoints; ONNX files declare what they take")
        return Onnx(load(path))
    classifier = Classifier(path)
    if not whole:
        return Resized(classifier)
    return Whole(classifier.network, classifier.inputs.normalizer(), classifier.inputs.classes)
