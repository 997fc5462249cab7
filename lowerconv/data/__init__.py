"""Images with labels: from files to arrays, and from arrays to batches.

``load`` takes what users write (``fashion-mnist``, ``cifar10:DIR``, ...) and returns a training
and a test set, in memory (:class:`Dataset`) or in mapped files (:class:`ShardSet`, made by
:func:`pack`); each reader is a module of its own. Damaged files give a :class:`DataError` that says
what is wrong and where.

:class:`Loader` makes batches of them ahead of their use, its images changed as an :class:`Augment`
says.
"""

from lowerconv.data.augment import Augment, change_image
from lowerconv.data.cifar10 import read_cifar10
from lowerconv.data.dataset import DataError, Dataset, DataWarning
from lowerconv.data.fashion_mnist import read_fashion_mnist
from lowerconv.data.folder import read_folder
from lowerconv.data.idx import read_idx
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.data.packing import pack
from lowerconv.data.shardset import ShardSet, read_shards
from lowerconv.data.source import Source
from lowerconv.data.spec import load

__all__ = [
    "Augment",
    "DataError",
    "DataWarning",
    "Dataset",
    "Loader",
    "Normalizer",
    "ShardSet",
    "Source",
    "change_image",
    "load",
    "pack",
    "read_cifar10",
    "read_fashion_mnist",
    "read_folder",
    "read_idx",
    "read_shards",
]
