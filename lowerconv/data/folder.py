"""Folders of images, one folder per class.

Two layouts::

    DIR/train/<class>/*.jpg          DIR/<class>/*.jpg
    DIR/test/<class>/*.jpg           every fifth image of a class is a test image

``train`` and ``test`` are taken for classes (second layout) where they hold images themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lowerconv.checks import integer
from lowerconv.data.dataset import DataError, Dataset, find_directory
from lowerconv.data.oddities import Oddities
from lowerconv.data.picture import apply_pixel_limit, damage_told, decode, fit
from lowerconv.data.pool import Pool

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

_TEST_EVERY = 5


def read_folder(directory: str | os.PathLike[str], size: int = 32) -> tuple[Dataset, Dataset]:
    """Read class folders of images.

    The classes are the folders in sorted order, the images of a class its files in sorted order
    of their names. In the layout without ``train`` and ``test``, images 4, 9, 14, ... of each
    class (counted from 0) are the test images. Hidden files and folders are passed over. So are
    files with other extensions than jpg, jpeg, png, bmp, gif, webp, tif and tiff (in either case),
    links to nothing, and whatever else is no image of a class: a `DataWarning` tells how many. It
    also tells of classes without test images, and of names that differ in case only.

    Images become RGB (transparency is dropped, 16-bit grey loses its low byte), turned as their
    EXIF orientation says, where that can be read. The largest centred square is resized to ``size``
    x ``size`` pixels, with antialiasing. Of an animation the first frame counts.

    Parameters
    ----------
    directory : path
        The folder DIR of the module's docstring.
    size : int
        Height and width of the images in pixels.

    Returns
    -------
    (train, test)
        Of :class:`Dataset`, images (N, 3, size, size), sorted by class.

    Raises
    ------
    TypeError, ValueError
        If ``size`` is no integer of 1 or more.
    DataError
        If a folder is missing or empty, train and test have different classes, no class has an
        image for testing, or an image cannot be decoded or has more than
        ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (the environment variable
        ``LOWERCONV_MAX_IMAGE_PIXELS`` sets that).
    """
    size = integer(size, "size", 1)
    listing = list_folder(directory)
    train, test = (_read_part(listing, part, size) for part in (listing.train, listing.test))
    return train, test


class Listing(NamedTuple):
    """What is in a folder of images.

    Attributes
    ----------
    root : Path
    name : str
    classes : tuple of str
    train, test : list of (Path, int)
        Files, sorted by class, and the class of each.
    """

    root: Path
    name: str
    classes: tuple[str, ...]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]


def list_folder(directory: str | os.PathLike[str]) -> Listing:
    """List the images of class folders without reading them, for `read_folder`.

    Raises
    ------
    DataError
        As `read_folder`, except for what is wrong with an image.
    """
    root = find_directory(directory, "train/<class>/ and test/<class>/, or <class>/, with images")
    oddities = Oddities(root)
    if _has_parts(root):
        for other in _list_folders(root):
            if other.name not in ("train", "test"):
                oddities.add("folders beside train and test", other)
        train = _list_classes(root / "train", oddities)
        test = _list_classes(root / "test", oddities)
        _check_same_classes(root, list(train), list(test))
    else:
        both = _list_classes(root, oddities)
        train = {
            name: [file for i, file in enumerate(files) if (i + 1) % _TEST_EVERY]
            for name, files in both.items()
        }
        test = {name: files[_TEST_EVERY - 1 :: _TEST_EVERY] for name, files in both.items()}
        for name in [name for name, files in test.items() if not files]:
            oddities.note("class folders with too few images to test with", root / name)
        if not any(test.values()):
            most = max(map(len, both.values()))
            raise DataError.at(
                root,
                "test images",
                f"at most {most} images in a class",
                f"at least {_TEST_EVERY} in one class (every fifth is for testing), or test/",
            )
    oddities.tell()
    classes = tuple(train)
    parts = (
        [(file, label) for label, name in enumerate(classes) for file in part[name]]
        for part in (train, test)
    )
    return Listing(root, root.resolve().name or "folder", classes, *parts)


def _has_parts(root: Path) -> bool:
    """Tell whether the layout is the one with ``train`` and ``test``."""
    folders = [name for name in ("train", "test") if (root / name).is_dir()]
    parts = [name for name in folders if not any(map(is_image, list_visible(root / name)))]
    if len(parts) == 1 and _list_folders(root / parts[0]):
        other = "test" if parts == ["train"] else "train"
        found = "images and no class folders" if other in folders else "nothing"
        raise DataError.at(root / other, "folder", found, f"class folders as in {parts[0]}")
    return len(parts) == 2


def _list_classes(root: Path, oddities: Oddities) -> dict[str, list[Path]]:
    """List the image files of each class folder, both in sorted order."""
    folders = _list_folders(root)
    if not folders:
        raise DataError.at(root, "folder", "no class folders", "a folder of images for each class")
    for path in filter(is_image, list_visible(root)):
        oddities.add("images beside the class folders", path)
    oddities.compare_names("class folders", folders)
    return {folder.name: _list_images(folder, oddities) for folder in folders}


def _list_folders(folder: Path) -> list[Path]:
    return [path for path in list_visible(folder) if _is(Path.is_dir, path)]


def _list_images(folder: Path, oddities: Oddities) -> list[Path]:
    """List the images of a class."""
    files, others = [], Oddities(folder)
    for path in list_visible(folder):
        if is_image(path):
            files.append(path)
        else:
            others.add(_what_else(path), path)
    if not files:
        found = "no images" + (f", but {others}" if others else "")
        expected = f"files {' '.join(sorted(EXTENSIONS))}"
        raise DataError.at(folder, "class folder", found, expected)
    oddities.include(others)
    oddities.compare_names("images", files)
    return files


def is_image(path: Path) -> bool:
    """Return whether there is a file whose name is one of an image."""
    return path.suffix.lower() in EXTENSIONS and _is(Path.is_file, path)


def _what_else(path: Path) -> str:
    """Return what is in a class folder and no image, in words."""
    if _is(Path.is_dir, path):
        return "folders within class folders"
    if not _is(Path.exists, path):
        return "links to nothing"
    return "files with other extensions" if _is(Path.is_file, path) else "no regular files"


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except OSError as error:  # such as a folder that may not be entered
        raise DataError.at(path, "file", str(error), "a file that can be looked at") from error


def list_visible(folder: Path) -> list[Path]:
    """Return what is in a folder and not hidden, sorted by name.

    Raises
    ------
    DataError
        The folder cannot be read.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError.at(folder, "folder", str(error), "a readable folder") from error
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _check_same_classes(root: Path, train: list[str], test: list[str]) -> None:
    for part, names, other, other_names in (
        ("train", train, "test", test),
        ("test", test, "train", train),
    ):
        missing = [name for name in other_names if name not in names]
        if missing:
            found = f"no {', '.join(missing)}"
            raise DataError.at(root / part, "class folders", found, f"the classes of {other}")


def _read_part(listing: Listing, part: list[tuple[Path, int]], size: int) -> Dataset:
    images = np.empty((len(part), 3, size, size), np.uint8)

    def read_into(index: int) -> None:
        images[index] = read_image(part[index][0], (3, size, size))

    # Pillow releases the GIL while it decodes and resizes.
    with Pool(cores(), "lowerconv-folder") as pool:
        for job in [pool.submit(partial(read_into, index)) for index in range(len(part))]:
            job.result()  # an error cancels the files not begun
    labels = np.array([label for _, label in part], np.int64)
    return Dataset(listing.name, images, labels, listing.classes)


def read_image(
    path: Path, shape: tuple[int, int, int], longest: int | None = None
) -> npt.NDArray[np.uint8]:
    """Decode one file.

    Of the image, the largest centred part with the proportions of `shape` is resized to it.

    Parameters
    ----------
    path : Path
    shape : (C, H, W)
        3 channels for red, green and blue, or 1 for grey.
    longest : int, optional
        Most pixels of a side of the result. Where the image has more to show than `shape`, so much
        of that stays on both sides of the part in the middle, which does not depend on it. By
        default none.

    Returns
    -------
    uint8 array (C, height, width), at least as large as `shape`.

    Raises
    ------
    ValueError
        There are other channels.
    DataError
        It cannot be decoded.
    """
    channels, H, W = shape
    if channels not in (1, 3):
        raise ValueError(f"shape: got {channels} channels, expected 1 or 3")
    apply_pixel_limit()
    with damage_told(path):
        # Twice the wanted size leaves the resampling its antialiasing; not turned yet.
        return fit(decode(path, 2 * max(H, W)), shape, longest)


def cores() -> int:
    """Count the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
