"""The names that users give to data, such as ``cifar10:DIR``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from lowerconv.data.cifar10 import read_cifar10
from lowerconv.data.fashion_mnist import read_fashion_mnist
from lowerconv.data.folder import read_folder
from lowerconv.data.shardset import read_shards
from lowerconv.data.source import Source

#: The forms that :func:`load` accepts, as its error message shows them.
SPECS = (
    "fashion-mnist",
    "fashion-mnist:DIR",
    "cifar10:DIR",
    "folder:DIR[?size=S]",
    "shards:DIR[?size=S]",
)

_KINDS = ("fashion-mnist", "cifar10", "folder", "shards")
_SIZED = ("folder", "shards")  # those that take ?size=S
_FOLDER_SIZE = 32


class Spec(NamedTuple):
    """A specification taken apart: ``KIND:DIRECTORY?size=SIZE``; no directory: the embedded set."""

    kind: str
    directory: str | None = None
    size: int | None = None


def load(spec: str) -> tuple[Source, Source]:
    """Read the dataset that a specification names.

    Parameters
    ----------
    spec : str
        One of

        - ``fashion-mnist``: the 10,000 images that come with this package;
        - ``fashion-mnist:DIR``: the full set from its four idx files;
        - ``cifar10:DIR``: CIFAR-10 in its binary form;
        - ``folder:DIR`` or ``folder:DIR?size=S``: class folders of images, made S x S pixels
          (32 where no size is given);
        - ``shards:DIR`` or ``shards:DIR?size=S``: what ``lowerconv pack`` has made of any of
          these; training sees S x S pixels of each image (all that it was packed for where no
          size is given).

        A leading ``~`` in DIR is the home directory.

    Returns
    -------
    (train, test)
        In memory, as `Dataset`; shards in mapped files, as `ShardSet`.

    Raises
    ------
    TypeError
        If ``spec`` is not a string.
    ValueError
        If ``spec`` has none of these forms.
    DataError
        If the data is missing or damaged.

    Examples
    --------
    >>> train, test = load("fashion-mnist")
    >>> len(train), len(test), train.image_shape
    (8500, 1500, (1, 28, 28))
    """
    kind, directory, size = parse_spec(spec)
    if directory is None:
        return read_fashion_mnist()
    if kind == "fashion-mnist":
        return read_fashion_mnist(directory)
    if kind == "cifar10":
        return read_cifar10(directory)
    if kind == "folder":
        return read_folder(directory, size or _FOLDER_SIZE)
    return read_shards(directory, size)


def parse_spec(spec: str) -> Spec:
    """Take a specification apart; raises as `load` does, but reads nothing."""
    if not isinstance(spec, str):
        raise TypeError(f"data: got {spec!r}, expected a string, one of {', '.join(SPECS)}")
    if spec == "fashion-mnist":
        return Spec("fashion-mnist")
    kind, _, directory = spec.partition(":")
    if kind not in _KINDS or not directory:
        raise ValueError(f"data: got {spec!r}, expected one of {', '.join(SPECS)}")
    return _split_size(spec, kind, directory) if kind in _SIZED else Spec(kind, directory)


def find_spec(source: str) -> str:
    """Return the specification of a directory, by what it holds; a specification as it is."""
    kind, colon, _ = source.partition(":") if isinstance(source, str) else ("", "", "")
    is_spec = kind in _KINDS and (colon or kind == "fashion-mnist")
    if is_spec or not isinstance(source, str) or not os.path.isdir(os.path.expanduser(source)):
        return source
    path = Path(source).expanduser()
    if list(path.glob("data_batch_*.bin")) or (path / "cifar-10-batches-bin").is_dir():
        return f"cifar10:{source}"
    if list(path.glob("*-images-idx3-ubyte*")):
        return f"fashion-mnist:{source}"
    return f"folder:{source}"


def _split_size(spec: str, kind: str, text: str) -> Spec:
    """Split ``DIR?size=S`` into the directory and S (None where there is no option)."""
    option = re.fullmatch(r"(.+)\?([^?/]*=[^?/]*)", text, re.DOTALL)
    if option is None:
        return Spec(kind, text)
    size = re.fullmatch(r"size=([0-9]{1,6})", option[2])
    if size is None or int(size[1]) == 0:
        raise ValueError(
            f"data: got option {option[2]!r} in {spec!r}, "
            "expected size=S with S a whole number of pixels >= 1"
        )
    return Spec(kind, option[1], int(size[1]))
