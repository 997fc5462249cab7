"""From image files to pixels, and what Pillow leaves to its users there.

That is how large an image may be, how it is turned, its colours, and what is cut off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from lowerconv.data.dataset import DataError

#: Names the most pixels that an image file may have, where this is not Pillow's own limit.
LIMIT_VARIABLE = "LOWERCONV_MAX_IMAGE_PIXELS"

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow looks at the content, not at the name: without this list a file named .png may reach any
# of its decoders, the one that starts Ghostscript included.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


def decode(path: Path, enough: int | None = None) -> Image.Image:
    """Return an image file as RGB, turned as its EXIF orientation says; of an animation the first.

    Parameters
    ----------
    path : Path
    enough : int, optional
        Pixels of both sides that do: a JPEG decodes several times faster at 1/2, 1/4 or 1/8 of its
        size.

    Returns
    -------
    Image

    Raises
    ------
    Exception
        On damaged files Pillow's decoders raise whatever they stumble over: OSError, SyntaxError,
        ValueError, struct.error, IndexError, ... `damage_told` makes one error of them.
    """
    with Image.open(path, formats=_FORMATS) as image:
        check_pixels(image)
        orientation = take_orientation(image)
        if enough is not None:
            image.draft(None, (enough, enough))
        image.load()
        rgb = to_rgb(image)
        if orientation in TURNS and image.format != "TIFF":  # loading has turned these
            rgb = rgb.transpose(TURNS[orientation])
    return rgb


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Make a DataError that names the file of whatever is raised meanwhile."""
    try:
        yield
    except Exception as error:
        raise DataError.at(path, "image", describe(error), "a complete image") from error


def fit(
    rgb: Image.Image, shape: tuple[int, int, int], longest: int | None = None
) -> npt.NDArray[np.uint8]:
    """Resize the largest centred part of an image with the proportions of `shape` to it.

    Parameters
    ----------
    rgb : Image
    shape : (C, H, W)
        3 channels, or 1 for grey.
    longest : int, optional
        As for `lowerconv.data.folder.read_image`.

    Returns
    -------
    uint8 array (C, height, width), at least as large as `shape`.
    """
    channels, H, W = shape
    tight = rgb.width * H <= rgb.height * W  # in width: all of it is in the middle part
    pixels, length = (W, rgb.width) if tight else (H, rgb.height)
    sides = (W, rgb.width * pixels // length), (H, rgb.height * pixels // length)
    # As many pixels on both sides of the middle part, which stays the same.
    width, height = (
        side + 2 * (max(0, min(whole, longest or 0) - side) // 2) for side, whole in sides
    )
    across, down = width * length / pixels, height * length / pixels
    left, top = (rgb.width - across) / 2, (rgb.height - down) / 2
    # Cropping by the resize keeps a sliver of an image from growing before it is cut. Pillow
    # widens the bilinear filter to the pixels that fall together, which is the antialiasing.
    box = (left, top, left + across, top + down)
    resized = rgb.resize((width, height), Image.Resampling.BILINEAR, box=box)
    if channels == 1:
        return np.asarray(resized.convert("L"))[np.newaxis]
    return np.asarray(resized).transpose(2, 0, 1)


def colours(pixels: npt.NDArray[np.uint8]) -> list[Image.Image]:
    """Return an image of each colour of RGB pixels (H, W, 3), to be resized one by one.

    Pillow takes one colour as it lies in memory.  Copying pixels of three it holds the lock of
    Python's interpreter, and up whoever works meanwhile: 3 ms for 1920x1080 pixels.
    """
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    _, H, W = planes.shape
    return [Image.frombuffer("L", (W, H), plane, "raw", "L", 0, 1) for plane in planes]


def fit_pixels(pixels: npt.NDArray[np.uint8], shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return what `fit` makes of RGB pixels (H, W, 3)."""
    channels, H, W = shape
    fitted = np.concatenate([fit(image, (1, H, W)) for image in colours(pixels)])
    if channels == 3:
        return fitted
    return np.asarray(Image.fromarray(fitted.transpose(1, 2, 0)).convert("L"))[np.newaxis]


def apply_pixel_limit() -> None:
    """Set Pillow's limit on the pixels of an image, where the environment names another one.

    Pillow refuses some images by its own variable only, and so this is what is set.

    Raises
    ------
    ValueError
        The environment variable names no whole number of 1 or more.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return
    if not text.isdecimal() or int(text) == 0:
        raise ValueError(f"{LIMIT_VARIABLE}: got {text!r}, expected a whole number of pixels")
    Image.MAX_IMAGE_PIXELS = int(text)


def check_pixels(image: Image.Image) -> None:
    """Refuse an image without pixels, or with more than Pillow's limit: it only warns up to twice.

    Raises
    ------
    ValueError, Image.DecompressionBombError
    """
    limit = Image.MAX_IMAGE_PIXELS
    if not image.width or not image.height:
        raise ValueError(f"{image.width} x {image.height} pixels")
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(
            f"{image.width} x {image.height} pixels exceed the limit of {limit}"
        )


def describe(error: Exception) -> str:
    """Return what is wrong with an image file, in words."""
    reason = f"{error} ({type(error).__name__})"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        reason += (
            f"; to allow it set the environment variable {LIMIT_VARIABLE}, "
            "or PIL.Image.MAX_IMAGE_PIXELS in Python, to more pixels"
        )
    return reason


def take_orientation(image: Image.Image) -> int:
    """Return the orientation by EXIF or XMP, 1 to 8, of an image that is not loaded yet.

    Nothing else that a file says about its image is needed, and it may be damaged where the image
    is whole. Pillow reads all of it when it turns an image, and of a TIFF file when it loads it:
    there all but the orientation is dropped.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
        # A number of any type, as Pillow takes it for TIFF files.
        orientation = next((turn for turn in TURNS if turn == value), 1)
    except Exception:  # whatever damage makes Pillow stumble: the image stays as it is stored
        orientation = 1
    if image.format == "TIFF":
        _drop_all_but_orientation(image)
    return orientation


def _drop_all_but_orientation(image: Image.Image) -> None:
    image.info.pop("xmp", None)
    try:
        exif = image.getexif()  # the same again; what failed is not read twice
        for tag in list(exif):
            if tag != ExifTags.Base.Orientation:
                del exif[tag]
    except Exception:
        return


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image as RGB.

    Raises
    ------
    ValueError
        Its pixels have no range that is known.
    """
    # Pillow's own conversions clip these at 255, which turns nearly every pixel white.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        image = Image.fromarray(_upper_bytes(image))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no range that maps to 0..255")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when a palette loses its alpha in one step
    return image.convert("RGB")


def _upper_bytes(image: Image.Image) -> np.ndarray:
    """Return the upper 8 bits of the 16 of each pixel; TIFF has 12, and white as 0, too."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16,))[0]
    values = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return 255 - values if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values
