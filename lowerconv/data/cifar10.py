"""CIFAR-10 in its binary form: colour 32 x 32 images of ten kinds of things.

A file is a sequence of records of 3,073 bytes: the label, then 1,024 bytes each of red, green
and blue, row by row; this is (C, H, W) already.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009, and
https://www.cs.toronto.edu/~kriz/cifar.html, section "Binary version".
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lowerconv.data.dataset import DataError, Dataset, find_directory

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = ("test_batch.bin",)
_META = "batches.meta.txt"
_SUBFOLDER = "cifar-10-batches-bin"  # what the published archive unpacks to


def read_cifar10(directory: str | os.PathLike[str]) -> tuple[Dataset, Dataset]:
    """Read CIFAR-10 from its binary files.

    Parameters
    ----------
    directory : path
        Where ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin`` are, or a
        directory with these in ``cifar-10-batches-bin``. The original files hold 10,000 records
        each; any other whole number of records >= 1 will do. The names of the classes come from
        ``batches.meta.txt`` where it is there.

    Returns
    -------
    (train, test)
        Of :class:`Dataset`, images (N, 3, 32, 32).

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    names = _TRAIN + _TEST
    path = find_directory(directory, ", ".join(names))
    if not any((path / name).exists() for name in names) and (path / _SUBFOLDER).is_dir():
        path = path / _SUBFOLDER
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise DataError.at(
            path, "files", f"no {', '.join(missing)}", f"{', '.join(names)} or {_SUBFOLDER}/"
        )
    classes = _read_classes(path / _META)
    train, test = (_read_part([path / name for name in part], classes) for part in (_TRAIN, _TEST))
    return train, test


def _read_part(paths: list[Path], classes: tuple[str, ...]) -> Dataset:
    images, labels = [], []
    for path in paths:
        records = _read_records(path)
        images.append(records[:, 1:])
        labels.append(records[:, 0].astype(np.int64))
    return Dataset(
        "cifar10",
        np.concatenate(images).reshape(-1, *_SHAPE),
        np.concatenate(labels),
        classes,
    )


def _read_records(path: Path) -> npt.NDArray[np.uint8]:
    """Read a file as an array (records, 3073) whose first column are valid labels."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError.at(path, "file", str(error), "a readable file") from error
    whole, rest = divmod(data.size, _RECORD)
    if rest or not whole:
        raise DataError.at(
            path,
            f"byte {whole * _RECORD}",
            f"{data.size} bytes: {whole} records and {rest} bytes",
            f"whole records of {_RECORD} bytes, at least one",
        )
    records = data.reshape(whole, _RECORD)
    outside = np.flatnonzero(records[:, 0] >= len(CLASSES))
    if outside.size:
        first = int(outside[0])
        where = f"record {first} (byte {first * _RECORD})"
        raise DataError.at(path, where, f"label {records[first, 0]}", f"0..{len(CLASSES) - 1}")
    return records


def _read_classes(path: Path) -> tuple[str, ...]:
    """Read the names of the classes, one per line; the standard names where there is no file."""
    if not path.exists():
        return CLASSES
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError.at(path, "file", str(error), "readable UTF-8 text") from error
    # The original file ends with an empty line.
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != len(CLASSES):
        raise DataError.at(path, "lines", f"{len(names)} names", f"{len(CLASSES)}, one per line")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise DataError.at(path, f"name {number}", f"{name!r} again", "a name of its own")
    return names
