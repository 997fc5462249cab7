"""Arguments of the commands that run ONNX files: arrays, pictures and shapes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from lowerconv.onnx.network import OnnxNetwork

Shape = tuple[int, ...]


def shape_argument(text: str) -> Shape:
    """Return a shape such as ``1x3x224x224``."""
    try:
        shape = tuple(int(part) for part in text.replace(",", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a shape such as 1x3x224x224"
        ) from None
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected extents of at least 1")
    return shape


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the file of a network and the shapes of its inputs."""
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--shape",
        type=shape_argument,
        action="append",
        metavar="1x3x224x224",
        help="of the input, for each of several; by default as declared, for a batch of one",
    )


def shapes_of(network: OnnxNetwork, given: Sequence[Shape] | None) -> tuple[Shape, ...]:
    """Return the shapes of the inputs: those given, else those declared, for a batch of one.

    Raises
    ------
    ValueError
        An extent beside the batch is not declared, or there are too few or too many shapes.
    """
    if given:
        if len(given) != len(network.input_names):
            raise ValueError(
                f"--shape: got {len(given)}, expected {len(network.input_names)}: "
                + ", ".join(network.input_names)
            )
        return tuple(given)
    found = []
    for name, shape in zip(network.input_names, network.input_shapes, strict=True):
        whole = None if shape is None else (*(n if isinstance(n, int) else 1 for n in shape[:1]),)
        if shape is None or whole is None or not all(isinstance(n, int) for n in shape[1:]):
            raise ValueError(f"--shape: got none, expected that of {name}, declared as {shape}")
        found.append((*whole, *shape[1:]))
    return tuple(found)


def random_inputs(network: OnnxNetwork, shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Return random arrays: numbers of a normal distribution, or ones of other types."""
    rng = np.random.default_rng(0)
    arrays = []
    for shape, dtype in zip(shapes, network.input_dtypes, strict=True):
        kind = np.dtype(np.float32) if dtype is None else dtype
        whole = kind.kind in "iub"
        array = np.ones(shape) if whole else rng.standard_normal(shape)
        arrays.append(array.astype(kind))
    return arrays


def load_arrays(paths: Sequence[Path]) -> list[np.ndarray]:
    """Return the arrays of .npy files."""
    arrays = []
    for path in paths:
        try:
            arrays.append(np.load(path, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: no readable .npy file ({error})") from None
        if not isinstance(arrays[-1], np.ndarray):
            raise ValueError(f"{path}: expected a .npy file with one array")
    return arrays


class Layout(NamedTuple):
    """How a network takes pictures; extents are None where any will do."""

    channels: int
    height: int | None
    width: int | None
    last: bool  # whether channels are the last axis
    dtype: np.dtype

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels of a picture, resized where it has to be: (H, W, C), uint8."""
        grey = image.convert("RGB" if self.channels == 3 else "L")
        size = (self.width or image.width, self.height or image.height)
        resized = grey.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(resized).reshape(*size[::-1], self.channels)

    def values(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels as numbers from 0 to 1; as they are where the network takes integers."""
        whole = self.dtype.kind in "iu"
        return pixels.astype(self.dtype) if whole else (pixels / 255).astype(self.dtype)


def picture_layout(network: OnnxNetwork) -> Layout:
    """Return how a network takes pictures.

    Raises
    ------
    ValueError
        It takes none.
    """
    if len(network.input_names) != 1:
        raise ValueError(f"image: the network has {len(network.input_names)} inputs, expected one")
    shape, name = network.input_shapes[0], network.input_names[0]
    if shape is None or len(shape) != 4 or not {shape[1], shape[3]} & {1, 3}:
        raise ValueError(
            f"image: {name} is declared as {shape}, expected (N, C, H, W) or (N, H, W, C) with 1 "
            "or 3 channels"
        )
    last = shape[1] not in (1, 3)
    C, H, W = (shape[3], *shape[1:3]) if last else shape[1:]
    height, width = (n if isinstance(n, int) else None for n in (H, W))
    return Layout(C, height, width, last, network.input_dtypes[0] or np.dtype(np.float32))


def load_image(path: Path, network: OnnxNetwork) -> np.ndarray:
    """Return a picture as the network takes it: values from 0 to 1, resized to what is declared.

    Raises
    ------
    ValueError
        The network takes no pictures, or the file is none.
    """
    layout = picture_layout(network)
    try:
        pixels = layout.pixels(Image.open(path))
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path}: no readable picture ({error})") from None
    array = layout.values(pixels)
    return np.ascontiguousarray(array if layout.last else array.transpose(2, 0, 1))[None]
