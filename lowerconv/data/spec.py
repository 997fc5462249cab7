"""The names that users give to data, such as ``cifar10:DIR``."""

from __future__ import annotations

import re

from lowerconv.data.cifar10 import read_cifar10
from lowerconv.data.dataset import Dataset
from lowerconv.data.fashion_mnist import read_fashion_mnist
from lowerconv.data.folder import read_folder

#: The forms that :func:`load` accepts, as its error message shows them.
SPECS = ("fashion-mnist", "fashion-mnist:DIR", "cifar10:DIR", "folder:DIR[?size=S]")


def load(spec: str) -> tuple[Dataset, Dataset]:
    """Read the dataset that a specification names.

    Parameters
    ----------
    spec
        One of

        - ``fashion-mnist``: the 10,000 images that come with this package;
        - ``fashion-mnist:DIR``: the full set from its four idx files;
        - ``cifar10:DIR``: CIFAR-10 in its binary form;
        - ``folder:DIR`` or ``folder:DIR?size=S``: class folders of images, made S x S pixels
          (32 where no size is given).

        A leading ``~`` in DIR is the home directory.

    Returns
    -------
    (train, test)

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
    if not isinstance(spec, str):
        raise TypeError(f"data: got {spec!r}, expected a string, one of {', '.join(SPECS)}")
    if spec == "fashion-mnist":
        return read_fashion_mnist()
    kind, _, directory = spec.partition(":")
    if directory and kind == "fashion-mnist":
        return read_fashion_mnist(directory)
    if directory and kind == "cifar10":
        return read_cifar10(directory)
    if directory and kind == "folder":
        return read_folder(*_folder_options(spec, directory))
    raise ValueError(f"data: got {spec!r}, expected one of {', '.join(SPECS)}")


def _folder_options(spec: str, text: str) -> tuple[str, int]:
    """Split ``DIR?size=S`` into the directory and S (32 where there is no option)."""
    option = re.fullmatch(r"(.+)\?([^?/]*=[^?/]*)", text, re.DOTALL)
    if option is None:
        return text, 32
    size = re.fullmatch(r"size=([0-9]{1,6})", option[2])
    if size is None or int(size[1]) == 0:
        raise ValueError(
            f"data: got option {option[2]!r} in {spec!r}, "
            "expected size=S with S a whole number of pixels >= 1"
        )
    return option[1], int(size[1])
