"""A directory of shards as a data set: its index, and images located on demand."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lowerconv.checks import integer
from lowerconv.data.dataset import DataError, find_directory
from lowerconv.data.shards import PARTS, Shard, shard_name
from lowerconv.data.source import Pixels

INDEX, INDEX_FORMAT = "index.json", "lowerconv shards 1"

#: Images of so many bytes are asked for before they are used; smaller ones come with their pages.
_ADVISE_FROM = 1 << 16
_FILES_IN_RESERVE = 256


class ShardSet:
    """The images of one part of a directory of shards: a `source.Source`.

    A copy, and what is unpickled, has the same files open; their images are verified anew.

    Parameters
    ----------
    name : str
    classes : tuple of str
    shards : list of Shard
    size : (height, width)
        In pixels, of the images that training sees: a part of the stored ones, where these are
        larger.
    stored_size : (height, width)
        What images were resized to when they were packed, in pixels.

    Raises
    ------
    DataError
        A stored image is smaller than `size`.
    """

    def __init__(
        self,
        name: str,
        classes: tuple[str, ...],
        shards: list[Shard],
        size: tuple[int, int],
        stored_size: tuple[int, int],
    ) -> None:
        self.name, self.classes, self.shards = name, classes, shards
        self.stored_size = stored_size
        self.image_shape = (shards[0].header.channels, *size)
        self._coded = bool(shards[0].header.coded)
        records = np.concatenate([shard.records for shard in shards])
        counts = [len(shard.records) for shard in shards]
        self._shard = np.repeat(np.arange(len(shards)), counts)
        self._first = np.cumsum([0, *counts])
        self._offset = records["offset"].astype(np.int64)
        self._length = records["length"].astype(np.int64)
        self.labels = records["label"].astype(np.int64)
        self._sizes = np.stack([records["height"], records["width"]], axis=1).astype(np.int64)
        small = np.flatnonzero((self._sizes < size).any(1))
        if small.size:
            shard, record = self._place(int(small[0]))
            height, width = self._sizes[small[0]]
            raise shards[shard].error(
                f"record {record}",
                f"an image of {height} x {width}",
                f"at least {size[0]} x {size[1]} pixels (?size=)",
            )
        begins = [
            shard.blocks["first"].astype(np.int64) + first
            for shard, first in zip(shards, self._first, strict=False)
        ]
        self._block_shard = np.repeat(np.arange(len(shards)), [len(begin) for begin in begins])
        self._block_first = np.concatenate(begins)
        self._verified = np.zeros(len(self._block_first), bool)
        base = np.array([shard.data.ctypes.data for shard in shards], np.int64)
        self._address = base[self._shard] + self._offset

    def __reduce__(self) -> tuple[Any, ...]:
        size = self.image_shape[1:]
        return ShardSet, (self.name, self.classes, self.shards, size, self.stored_size)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def runs(self) -> npt.NDArray[np.int64]:
        """The first image of each block, and the bytes of the block (see `source.Source`)."""
        lengths = np.concatenate([shard.blocks["length"] for shard in self.shards])
        return np.stack([self._block_first, lengths.astype(np.int64)], axis=1)

    def histogram(self) -> npt.NDArray[np.int64]:
        """Return how often each byte occurs in each channel, (C, 256), int64."""
        return np.sum([shard.counts for shard in self.shards], axis=0)

    def locate(self, indices: npt.NDArray[np.int64]) -> Pixels:
        """Return where some images lie, decoded and found undamaged.

        Parameters
        ----------
        indices : ndarray, (n,), int64
            Numbers of the images.

        Returns
        -------
        Pixels

        Raises
        ------
        DataError
            One of them is damaged; the message names the shard.
        """
        self._verify(indices)
        if self._coded:
            images = [self.shards[s].decode(r) for s, r in map(self._place, indices)]
            addresses = np.array([image.ctypes.data for image in images], np.int64)
            return Pixels(addresses, self._sizes[indices], images)
        for i in indices[self._length[indices] >= _ADVISE_FROM]:
            self.shards[self._shard[i]].advise(int(self._offset[i]), int(self._length[i]))
        return Pixels(self._address[indices], self._sizes[indices], self.shards)

    def _place(self, index: int) -> tuple[int, int]:
        """Return the shard of an image and its number there."""
        shard = int(self._shard[index])
        return shard, int(index - self._first[shard])

    def _verify(self, indices: npt.NDArray[np.int64]) -> None:
        blocks = np.unique(np.searchsorted(self._block_first, indices, side="right") - 1)
        for block in blocks[~self._verified[blocks]]:
            shard = int(self._block_shard[block])
            number = int(block - np.searchsorted(self._block_shard, shard))
            self.shards[shard].check(number)
            self._verified[block] = True

    def verify_all(self) -> None:
        """Verify every image.

        Raises
        ------
        DataError
            For the first image that is damaged.
        """
        self._verify(np.arange(len(self)))


def read_shards(
    directory: str | os.PathLike[str], size: int | None = None
) -> tuple[ShardSet, ShardSet]:
    """Open the shards that ``lowerconv pack`` has made.

    Parameters
    ----------
    directory : path
        Where ``index.json`` is.
    size : int, optional
        Height and width in pixels of the images that training sees, at most those of the stored
        ones: the middle of each, unless an augmentation moves it. By default the size they were
        packed for.

    Returns
    -------
    (train, test)
        Of :class:`ShardSet`.

    Raises
    ------
    TypeError, ValueError
        `size` is no integer of 1 or more.
    DataError
        A file is missing, damaged, or of another data set.
    """
    size = None if size is None else integer(size, "size", 1)
    root = find_directory(directory, f"{INDEX} and the shards that lowerconv pack has made")
    index = read_index(root / INDEX)
    classes = tuple(index["classes"])
    height, width = index["size"]
    shape = (height, width) if size is None else (size, size)
    _allow_files(sum(len(index["shards"][part]) for part in PARTS))
    train, test = (
        ShardSet(index["name"], classes, shards, shape, (height, width))
        for shards in (_open_part(root, index, part, len(classes)) for part in range(len(PARTS)))
    )
    return train, test


def _open_part(root: Path, index: dict[str, Any], part: int, classes: int) -> list[Shard]:
    shards = []
    for number, entry in enumerate(index["shards"][PARTS[part]]):
        shard = Shard(root / shard_name(part, number), classes)
        if entry != entry_of(shard):
            raise shard.error("header", "another shard", f"the one that {INDEX} was written for")
        shards.append(shard)
    return shards


def entry_of(shard: Shard) -> dict[str, int]:
    """Return what the index keeps of a shard; the checksum covers its header, and so all of it."""
    crc = zlib.crc32(shard.header.encode())
    return {"records": len(shard.records), "bytes": shard.bytes, "crc": crc}


def write_index(index: dict[str, Any]) -> bytes:
    """Return the content of ``index.json``."""
    crc = zlib.crc32(json.dumps(index, sort_keys=True).encode())
    return (json.dumps({"index": index, "crc": crc}, indent=1) + "\n").encode()


def read_index(path: Path) -> dict[str, Any]:
    """Read ``index.json``.

    Raises
    ------
    DataError
        It is missing or damaged.
    """
    if not path.exists():
        raise DataError.at(path, "file", "nothing", "what lowerconv pack writes when it is done")
    try:
        content = json.loads(path.read_bytes())
        index, crc = content["index"], content["crc"]
        whole = crc == zlib.crc32(json.dumps(index, sort_keys=True).encode())
    except OSError as error:
        raise DataError.at(path, "file", str(error), "a readable file") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError.at(path, "file", f"no index ({error})", "one of lowerconv pack") from error
    if not whole:
        raise DataError.at(path, "file", "damage: another checksum", f"{crc}")
    if not isinstance(index, dict) or index.get("format") != INDEX_FORMAT:
        found = index.get("format") if isinstance(index, dict) else index
        raise DataError.at(path, "format", repr(found), repr(INDEX_FORMAT))
    return index


def find_shards(root: Path) -> list[Path]:
    """Return the shards in a directory, those of the training set first."""
    pattern = re.compile(rf"({'|'.join(PARTS)})-\d{{5,}}\.shard")
    found = [path for path in root.iterdir() if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (PARTS.index(path.name.split("-")[0]), path.name))


def _allow_files(count: int) -> None:
    """Raise the limit on open files: every mapped shard is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _FILES_IN_RESERVE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
