"""Fashion-MNIST: grey 28 x 28 images of ten kinds of clothing, a part of them in this package.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
machine learning algorithms", arXiv:1708.07747, 2017.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np

from lowerconv.data.dataset import DataError, Dataset, find_directory
from lowerconv.data.idx import read_idx

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

#: Test images of each class in the embedded part, which holds 1,000 of each.
_EMBEDDED_TEST_PER_CLASS = 150

_NAME = "fashion-mnist"
_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_LABELS_START = 8  # bytes of header in front of the labels


def read_fashion_mnist(directory: str | os.PathLike[str] | None = None) -> tuple[Dataset, Dataset]:
    """Read Fashion-MNIST, from a directory or the part in this package.

    The part in this package is the original test set: 10,000 images, 1,000 of each class. The last
    150 of each class are the test images here (1,500), all others the training images (8,500);
    both keep the order of the file. Results on it do not compare with those on the full set.

    Parameters
    ----------
    directory : path, optional
        Where ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``
        and ``t10k-labels-idx1-ubyte`` are, each plain or with ``.gz``; the plain one is read where
        both are there. Any number and size of images will do. None for the part in this package.

    Returns
    -------
    (train, test)
        Of :class:`Dataset`, images (N, 1, H, W); H = W = 28 in the original files.

    Raises
    ------
    DataError
        If a file is missing or damaged, or if files do not belong together.
    """
    if directory is None:
        return _read_embedded()
    path = find_directory(directory, f"{', '.join(_TRAIN + _TEST)} (each plain or with .gz)")
    train = _read_part(*(_find(path, name) for name in _TRAIN))
    test = _read_part(*(_find(path, name) for name in _TEST))
    if train.image_shape != test.image_shape:
        raise DataError.at(
            _find(path, _TEST[0]),
            "byte 8",
            f"images of {_pixels(test)} pixels",
            f"{_pixels(train)} as in {_find(path, _TRAIN[0]).name}",
        )
    return train, test


def _read_embedded() -> tuple[Dataset, Dataset]:
    folder = resources.files("lowerconv.data") / "embedded"
    image_file, label_file = (folder / f"{name}.gz" for name in _TEST)
    # as_file: the package may be imported from a zip archive.
    with resources.as_file(image_file) as images, resources.as_file(label_file) as labels:
        whole = _read_part(images, labels)
    is_test = np.zeros(len(whole), dtype=bool)
    for label in range(len(CLASSES)):
        is_test[np.flatnonzero(whole.labels == label)[-_EMBEDDED_TEST_PER_CLASS:]] = True
    train, test = (
        Dataset(_NAME, whole.images[part], whole.labels[part], CLASSES)
        for part in (~is_test, is_test)
    )
    return train, test


def _read_part(image_file: Path, label_file: Path) -> Dataset:
    images = read_idx(image_file, ndim=3)
    labels = read_idx(label_file, ndim=1)
    if len(images) != len(labels):
        raise DataError.at(
            label_file,
            "byte 4",
            f"{len(labels)} labels",
            f"{len(images)}, one for each image in {image_file.name}",
        )
    outside = np.flatnonzero(labels >= len(CLASSES))
    if outside.size:
        first = int(outside[0])
        where = f"label {first} (byte {_LABELS_START + first}, uncompressed)"
        raise DataError.at(label_file, where, str(labels[first]), f"0..{len(CLASSES) - 1}")
    return Dataset(_NAME, images[:, np.newaxis], labels.astype(np.int64), CLASSES)


def _find(directory: Path, name: str) -> Path:
    for candidate in (directory / name, directory / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError.at(directory / name, "file", "nothing", f"{name} or {name}.gz")


def _pixels(dataset: Dataset) -> str:
    _, height, width = dataset.image_shape
    return f"{height} x {width}"
