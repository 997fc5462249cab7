"""What Pillow leaves to its users: how large an image may be, how it is turned, and its colours."""

from __future__ import annotations

import os

import numpy as np
from PIL import ExifTags, Image

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

_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


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
