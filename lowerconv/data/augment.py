"""Random changes to training images, which leave what they show as it is.

Effects (except zoom), and how many changes they make possible, are those of R. Wu, S. Yan, Y. Shan,
Q. Dang, G. Sun, "Deep Image: Scaling up Image Recognition", arXiv:1501.02876, 2015, section "Data
Augmentation"; how a number becomes a change is ours. `transform` applies all of them in one pass.
docs/augment.md has pictures.

What happens to an image depends on seed, epoch and the image's number alone: the same on any number
of threads and ranks, and after any resumption.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from numbers import Real

import numpy as np
import numpy.typing as npt

from lowerconv.checks import Pair, integer, pair, plain_array
from lowerconv.data.source import check_images
from lowerconv.data.transform import LARGEST_SIDE, identity, transform
from lowerconv.ops.elementwise import GOLDEN, mix

#: Default amount of each effect, its unit, and the most that makes sense.
EFFECTS = {
    "crop": (12, "percent of the side beyond the border, where images have no room to spare", 100),
    "zoom": (30, "percent of the side that may be left out", 99),
    "flip": (50, "percent of the images", 100),
    "rotate": (10, "degrees either way", 180),
    "lens": (30, "percent of the size of what is in the middle, either way", 90),
    "vignette": (80, "percent of the light in the corners", 100),
    "cast": (20, "of 255, either way, for each channel", 255),
}

LENS_STEPS = 130  # either way: 260 changes
DARK_STEPS, RADIUS_STEPS = 40, 49  # 1,960 changes

# What `change_image` takes; beyond these nothing of an image can be recognised.
_RANGES = {
    "top": (-LARGEST_SIDE, LARGEST_SIDE),
    "left": (-LARGEST_SIDE, LARGEST_SIDE),
    "step_y": (0.001, LARGEST_SIDE),
    "step_x": (0.001, LARGEST_SIDE),
    "flip": (0, 1),
    "angle": (-360, 360),
    "lens": (-0.9, 9),
    "radius": (0, 0.99),
    "dark": (0, 1),
}

_mix = mix.py_func  # of arrays: a few numbers an image are not worth compiling it once more
# Each draws a number of its own: choosing one effect more changes nothing about the others.
_CROP_Y, _CROP_X, _ZOOM, _FLIP, _ROTATE, _LENS, _VIGNETTE, _CAST = range(1, 9)


def _words(value: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    # An array, so that products wrap around without a warning.
    return np.atleast_1d(np.asarray(value)).astype(np.uint64)


class _Draws:
    """Random integers for images: a function of seed, epoch, image and which number it is."""

    def __init__(self, seed: int, epoch: int, indices: npt.NDArray[np.int64], numbers: int) -> None:
        key = _mix(_words(seed & (2**64 - 1)) + GOLDEN)
        key = _mix(key + _words(epoch) * GOLDEN)
        keys = _mix(key + _words(indices) * GOLDEN)
        steps = np.arange(numbers, dtype=np.uint64)[:, np.newaxis] * GOLDEN
        self._bits = _mix(keys + steps) >> np.uint64(32)  # (numbers, images)

    def below(self, count: int | npt.NDArray[np.int64], which: int) -> npt.NDArray[np.int64]:
        """Return an integer from 0 to ``count - 1`` for each image; `count` is below 2^31."""
        return ((self._bits[which] * _words(count)) >> np.uint64(32)).astype(np.int64)


@dataclass(frozen=True)
class Augment:
    """Which effects images undergo, and how much of each; 0 leaves one out.

    Parameters
    ----------
    crop : int
        The part of an image that is taken lies anywhere in it. Where an image is no larger than
        what is taken, it lies up to so many percent of the side beyond the border, where the
        image is mirrored.
    zoom : int
        A smaller part is taken and enlarged: up to so many percent of the side less.
    flip : int
        So many percent of the images have left and right changed.
    rotate : int
        By a whole number of degrees, up to so many either way.
    lens : int
        Lines bulge outwards (barrel) or inwards (pincushion): what is in the middle grows or
        shrinks by up to so many percent, and corners stay where they are. 130 steps either way.
    vignette : int
        Corners lose up to so many percent of their light, in 40 steps; darkening begins at one of
        49 distances from the centre.
    cast : int
        Each channel gets an integer of its own added, up to so many either way.

    Raises
    ------
    TypeError, ValueError
        An amount is no integer or out of range.

    Examples
    --------
    >>> Augment.parse("flip,rotate=5")
    Augment(crop=0, zoom=0, flip=50, rotate=5, lens=0, vignette=0, cast=0)
    >>> print(Augment(crop=12, cast=30))
    crop,cast=30
    """

    crop: int = 0
    zoom: int = 0
    flip: int = 0
    rotate: int = 0
    lens: int = 0
    vignette: int = 0
    cast: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            amount = integer(getattr(self, field.name), field.name, 0)
            most = EFFECTS[field.name][2]
            if amount > most:
                raise ValueError(f"{field.name}: got {amount}, expected at most {most}")

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Make one from what ``--augment`` takes: names, each with an amount or the default one.

        Parameters
        ----------
        text : str
            Such as ``"flip,rotate=5"``.

        Returns
        -------
        Augment

        Raises
        ------
        ValueError
            An effect is unknown or named twice, or its amount is no integer of 1 or more.
        """
        amounts: dict[str, int] = {}
        for word in filter(None, text.split(",")):
            match = re.fullmatch(r"\s*(\w+)(?:=([0-9]{1,4}))?\s*", word)
            name = match[1] if match else word
            if match is None or name not in EFFECTS or name in amounts or match[2] == "0":
                known = ", ".join(f"{name}={amount}" for name, (amount, _, _) in EFFECTS.items())
                raise ValueError(
                    f"augment: got {word!r} in {text!r}, expected some of {known}, each once; "
                    "the amounts are the default ones"
                )
            amounts[name] = int(match[2]) if match[2] else EFFECTS[name][0]
        return cls(**amounts)

    def __str__(self) -> str:
        amounts = {name: getattr(self, name) for name in EFFECTS}
        return ",".join(
            name if amount == EFFECTS[name][0] else f"{name}={amount}"
            for name, amount in amounts.items()
            if amount
        )

    def draw(
        self,
        seed: int,
        epoch: int,
        indices: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        shape: tuple[int, int, int],
    ) -> tuple[np.ndarray, npt.NDArray[np.int32]]:
        """Decide what happens to some images.

        Parameters
        ----------
        seed, epoch : int
        indices : ndarray, (n,), int64
            Numbers of the images in their data set.
        sizes : ndarray, (n, 2), int64
            Their heights and widths.
        shape : (C, height, width)
            Of the results.

        Returns
        -------
        changes : ndarray, (n,), transform.CHANGE
        casts : ndarray, (n, C), int32
        """
        channels, *result = shape
        draws = _Draws(seed, epoch, indices, _CAST + channels)
        changes = identity(len(indices), sizes, (result[0], result[1]))
        self._draw_box(draws, changes, sizes, np.array(result))
        if self.flip:
            changes["flip"] = draws.below(100, _FLIP) < self.flip
        if self.rotate:
            changes["angle"] = draws.below(2 * self.rotate + 1, _ROTATE) - self.rotate
        if self.lens:
            step = draws.below(2 * LENS_STEPS + 1, _LENS) - LENS_STEPS
            changes["lens"] = step / LENS_STEPS * self.lens / 100
        if self.vignette:
            choice = draws.below(DARK_STEPS * RADIUS_STEPS + 1, _VIGNETTE) - 1  # -1: none
            steps = (choice // RADIUS_STEPS + 1) * (choice >= 0)
            changes["dark"] = steps / DARK_STEPS * self.vignette / 100
            changes["radius"] = choice % RADIUS_STEPS / (RADIUS_STEPS + 1)
        casts = np.zeros((len(indices), channels), np.int32)
        if self.cast:
            for c in range(channels):
                casts[:, c] = draws.below(2 * self.cast + 1, _CAST + c) - self.cast
        return changes, casts

    def _draw_box(
        self, draws: _Draws, changes: np.ndarray, sizes: npt.NDArray[np.int64], result: np.ndarray
    ) -> None:
        """Decide which part of each image is taken."""
        if self.zoom:
            # In hundredths of the largest part of this shape, which may be larger than the result.
            largest = (sizes / result).min(1)
            step = largest * (1 - draws.below(self.zoom + 1, _ZOOM) / 100)
            changes["step_y"] = changes["step_x"] = step
            room = np.maximum(sizes - step[:, np.newaxis] * result, 0)
            for axis, (name, which) in enumerate((("top", _CROP_Y), ("left", _CROP_X))):
                at = draws.below(1 << 16, which) / (1 << 16) if self.crop else 0.5
                changes[name] = room[:, axis] * at
        elif self.crop:
            room = sizes - result
            beyond = np.where(room > 0, 0, np.rint(result * self.crop / 100).astype(np.int64))
            for axis, (name, which) in enumerate((("top", _CROP_Y), ("left", _CROP_X))):
                places = room[:, axis] + 2 * beyond[:, axis] + 1
                changes[name] = draws.below(places, which) - beyond[:, axis]

    def __call__(
        self,
        image: npt.NDArray[np.uint8],
        seed: int,
        epoch: int = 0,
        index: int = 0,
        shape: tuple[int, int] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Return one image changed, (C, height, width), rounded to bytes.

        Parameters
        ----------
        image : ndarray, (C, H, W), uint8
        seed, epoch, index : int
            Seed of the run, epoch and number of the image: with them the same happens as in
            training.
        shape : (height, width), optional
            Of the result; by default that of the image.

        Raises
        ------
        TypeError, ValueError
            The image is no array of bytes, or has no pixels.
        """
        height, width = _check_image(image, shape)
        changes, casts = self.draw(
            seed,
            epoch,
            np.array([index]),
            np.array([image.shape[1:]]),
            (image.shape[0], height, width),
        )
        return _apply(image, changes, casts, (height, width))


def change_image(
    image: npt.NDArray[np.uint8],
    shape: tuple[int, int] | None = None,
    cast: int | Sequence[int] = 0,
    **change: float,
) -> npt.NDArray[np.uint8]:
    """Return one image with the given changes, rounded to bytes.

    Parameters
    ----------
    image : ndarray, (C, H, W), uint8
    shape : (height, width), optional
        Of the result; by default that of the image, of which the middle is taken.
    cast : int or one for each channel
        Added to the values.
    **change
        Fields of `transform.CHANGE`.

    Returns
    -------
    ndarray, (C, height, width), uint8

    Raises
    ------
    TypeError, ValueError
        The image is no array of bytes or has no pixels; a field is unknown, no number or out of
        range.

    Examples
    --------
    >>> image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    >>> change_image(image, angle=180, cast=10)[0]
    array([[15, 14, 13],
           [12, 11, 10]], dtype=uint8)
    """
    height, width = _check_image(image, shape)
    casts = _check_casts(cast, len(image))
    changes = identity(1, np.array([image.shape[1:]]), (height, width))
    for name, value in change.items():
        if name not in _RANGES:
            raise ValueError(f"change: got {name!r}, expected some of {', '.join(_RANGES)}")
        least, most = _RANGES[name]
        if name == "flip":
            value = integer(value, name, 0)
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
            raise TypeError(
                f"{name}: got {value!r} of type {type(value).__name__}, expected a number"
            )
        if not least <= value <= most:
            raise ValueError(f"{name}: got {value}, expected {least} to {most}")
        changes[name] = value
    return _apply(image, changes, casts, (height, width))


def _check_image(image: np.ndarray, shape: tuple[int, int] | None) -> Pair:
    """Return the height and width of the result; `transform` takes any memory for an image."""
    size = check_images(image, "image", "(C, H, W)").shape[1:]
    if max(size) > LARGEST_SIDE:
        raise ValueError(f"image: got shape {image.shape}, expected at most {LARGEST_SIDE} pixels")
    return size if shape is None else pair(shape, "shape", 1)


def _check_casts(cast: int | Sequence[int], channels: int) -> npt.NDArray[np.int32]:
    """Return what is added to each channel, (1, channels)."""
    if isinstance(cast, np.ndarray):
        cast = plain_array(cast, "cast").tolist()
    values = list(cast) if isinstance(cast, Sequence) else [cast] * channels
    if len(values) != channels:
        raise ValueError(f"cast: got {cast!r}, expected an integer or one for each channel")
    casts = [integer(value, "cast", -255) for value in values]
    if max(casts) > 255:
        raise ValueError(f"cast: got {max(casts)}, expected at most 255")
    return np.array([casts], np.int32)


def _apply(
    image: np.ndarray, changes: np.ndarray, casts: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    channels = len(image)
    table = np.tile(np.arange(256, dtype=np.float32), (channels, 1))
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    out = np.empty((1, channels, *shape), np.float32)
    image = np.ascontiguousarray(image)
    address, size = np.array([image.ctypes.data]), np.array([image.shape[1:]])
    transform(address, size, changes, casts, table, ones, zeros, out)
    return np.rint(out[0]).astype(np.uint8)
