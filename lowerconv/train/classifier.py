"""A trained network, as a checkpoint has it: to test, and to classify images with."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np

from lowerconv.checks import plain_array
from lowerconv.conv.arrays import contiguous
from lowerconv.data.folder import read_image
from lowerconv.data.loader import Loader
from lowerconv.data.picture import fit_pixels
from lowerconv.data.source import Source, check_source
from lowerconv.nn.init import undrawn
from lowerconv.nn.models import MODELS
from lowerconv.nn.module import Module
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.quant.network import load as load_integers
from lowerconv.quant.options import Quantization
from lowerconv.quant.prepare import prepare
from lowerconv.quant.store import FORMAT as INTEGER_NETWORK
from lowerconv.quant.store import format_of
from lowerconv.train.checkpoint import CheckpointError, load_checkpoint, state
from lowerconv.train.inputs import Inputs
from lowerconv.train.loop import evaluate


class Classifier:
    """A network with all that it takes to use it.

    Parameters
    ----------
    path : path
        A checkpoint; where the run kept an exponential average of the weights, that is taken. Or
        the integer network that ``lowerconv quantize`` has made of one.
    network : Module, optional
        What was trained, if it is none of :data:`lowerconv.nn.models.MODELS`, as it was given to be
        trained; its parameters are overwritten.

    Attributes
    ----------
    network : Module
    inputs : Inputs
        What it takes; ``inputs.classes`` are the names of the classes.
    epoch : int
        After which the checkpoint was made.
    averaged : bool
        Whether the weights are an exponential average.

    Raises
    ------
    CheckpointError
        There is no such checkpoint, it is damaged, or of another network.
    """

    def __init__(self, path: str | Path, network: Module | None = None) -> None:
        path = Path(path)
        self.network: Module
        if format_of(path) == INTEGER_NETWORK:
            self._load_integers(path, network)
        else:
            self._load_checkpoint(path, network)
        self._normalizer = self.inputs.normalizer()

    def _load_integers(self, path: Path, network: Module | None) -> None:
        if network is not None:
            raise TypeError(
                f"network: got a {type(network).__name__}, expected none: {path} has the network "
                "itself"
            )
        try:
            made = load_integers(path)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
        self.network, about = made, made.metadata
        if "inputs" not in about:
            raise CheckpointError(
                f"{path}: does not tell what images its network takes, expected a file that "
                "lowerconv quantize has written"
            )
        self.inputs = Inputs.from_json(about["inputs"])
        self.epoch, self.averaged = about["epoch"], about["averaged"]

    def _load_checkpoint(self, path: Path, network: Module | None) -> None:
        checkpoint = load_checkpoint(path)
        settings = checkpoint.state["settings"]
        self.inputs = Inputs.from_json(checkpoint.state["inputs"])
        self.epoch = len(checkpoint.state["history"])
        if network is None:
            if settings["model"] not in MODELS:
                raise CheckpointError(
                    f"{path}: of network {settings['model']!r}, expected one of "
                    f"{', '.join(MODELS)}, or the network itself as an argument in Python"
                )
            with undrawn():
                network = MODELS[settings["model"]].build(
                    self.inputs.image_shape, len(self.inputs.classes), settings["algorithm"]
                )
        names = [field.name for field in fields(Quantization)]
        bits = Quantization(**{name: settings[name] for name in names if name in settings})
        if bits.quantizes:
            prepare(network, bits)
        network.precision = settings.get("precision", "float32")
        self.network = network
        self.averaged = settings["ema"] is not None
        prefix = "ema/" if self.averaged else ""
        checkpoint.copy_to({prefix + name: a for name, a in state(network).items()}, path)

    def read(self, path: str | Path) -> np.ndarray:
        """Return an image file, of any size, as the network takes it.

        Parameters
        ----------
        path : path

        Returns
        -------
        ndarray, (C, H, W), uint8

        Raises
        ------
        DataError
            It cannot be read; the message names it.
        """
        return self._middle(read_image(Path(path), self._stored_shape))

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return an image in memory, of any size, as the network takes it.

        Parameters
        ----------
        pixels : ndarray, (H, W, 3), uint8
            In RGB.

        Returns
        -------
        ndarray, (C, H, W), uint8

        Raises
        ------
        TypeError, ValueError
            Pixels that are no array, or of another dtype or shape.
        """
        plain_array(pixels, "pixels")
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise ValueError(f"pixels: got {pixels.dtype} {pixels.shape}, expected uint8 (H, W, 3)")
        return self._middle(fit_pixels(pixels, self._stored_shape))

    @property
    def _stored_shape(self) -> tuple[int, int, int]:
        height, width = self.inputs.stored_size
        return self.inputs.image_shape[0], height, width

    def _middle(self, image: np.ndarray) -> np.ndarray:
        _, H, W = self.inputs.image_shape
        height, width = self.inputs.stored_size
        top, left = (height - H) // 2, (width - W) // 2
        return np.ascontiguousarray(image[:, top : top + H, left : left + W])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        images : ndarray, (N, C, H, W), uint8

        Returns
        -------
        ndarray, (N, classes), float64

        Raises
        ------
        TypeError, ValueError
            Images that are no array, or of another dtype or shape.
        """
        plain_array(images, "images")
        if images.dtype != np.uint8 or images.shape[1:] != self.inputs.image_shape:
            raise ValueError(
                f"images: got {images.dtype} {images.shape}, expected uint8 "
                f"(N, {', '.join(map(str, self.inputs.image_shape))})"
            )
        x = self._normalizer(contiguous(images, "images"), np.arange(len(images)))
        return softmax(self.network(x))

    def check(self, dataset: Source) -> None:
        """Raise an error unless a data set has images and classes as the network knows them.

        Parameters
        ----------
        dataset : Source

        Raises
        ------
        TypeError
            `dataset` is no data set.
        ValueError
            Images of another shape, or other classes.
        """
        check_source(dataset, "dataset")
        for name, found, expected in (
            ("image_shape", dataset.image_shape, self.inputs.image_shape),
            ("classes", dataset.classes, self.inputs.classes),
        ):
            if found != expected:
                raise ValueError(
                    f"dataset: {dataset.name} has {name} {found}, expected {expected}, which the "
                    "network was trained on"
                )

    def evaluate(self, dataset: Source, batch: int = 64) -> tuple[float, float]:
        """Return loss and accuracy over a data set of the same classes.

        Parameters
        ----------
        dataset : Source
            Such as one of those that :func:`lowerconv.data.load` returns.
        batch : int
            Images that are computed at a time.

        Returns
        -------
        loss : float
            Mean over the images, in nats.
        accuracy : float
            From 0 to 1.

        Raises
        ------
        TypeError
            `dataset` is no data set.
        ValueError
            Images of another shape, or other classes.
        """
        self.check(dataset)
        loader = Loader(dataset, self._normalizer, batch)
        try:
            return evaluate(self.network, loader, Communicator())
        finally:
            loader.close()


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities that scores (N, classes) stand for, in float64."""
    powers = np.exp(scores.astype(np.float64) - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
