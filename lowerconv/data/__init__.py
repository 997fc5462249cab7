"""Images with labels: from files to arrays, and from arrays to batches.

``load`` takes what users write (``fashion-mnist``, ``cifar10:DIR``, ...) and returns a training
and a test :class:`Dataset`; each reader is a module of its own. Damaged files give a
:class:`DataError` that says what is wrong and where.
"""

from lowerconv.data.cifar10 import read_cifar10
from lowerconv.data.dataset import DataError, Dataset
from lowerconv.data.fashion_mnist import read_fashion_mnist
from lowerconv.data.folder import read_folder
from lowerconv.data.idx import read_idx
from lowerconv.data.spec import load

__all__ = [
    "DataError",
    "Dataset",
    "load",
    "read_cifar10",
    "read_fashion_mnist",
    "read_folder",
    "read_idx",
]
