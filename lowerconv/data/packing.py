"""Packing: any data set into shards (see `shards` for their format), going on where it was.

A shard is written under another name and gets its own when it is whole, so that what has its name
is finished. A pack that was killed finds these again, verifies them and makes the ones missing;
the result is the same, byte for byte.

Images of folders are decoded and resized once. What they are stored as decides between disk and
time; a photograph of 512 x 600 pixels packed at size 256, on one core of an AMD EPYC (Zen 5):

================================  ==========  ================================================
stored as                         bytes       time until it can be augmented
================================  ==========  ================================================
bytes (default)                   230,400     0.03 ms (its checksum, the first time)
JPEG, quality 95 (``encoded``)    38,276      0.45 ms; values differ by 1.2 in the mean
the file itself (not offered)     61,306      2.1 ms
PNG (not offered)                 118,802     1.8 ms
================================  ==========  ================================================

Augmenting to 224 x 224 pixels takes 0.18 ms more. So bytes while they fit on the disk, better still
into memory; else JPEG.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lowerconv.arguments import Number, checked
from lowerconv.closing import close_all
from lowerconv.data.dataset import DataError, Dataset
from lowerconv.data.folder import Listing, cores, list_folder, read_image
from lowerconv.data.shards import (
    HEADER,
    MAGIC,
    PARTS,
    VERSION,
    Shard,
    shard_name,
)
from lowerconv.data.shardset import (
    INDEX,
    INDEX_FORMAT,
    entry_of,
    find_shards,
    read_index,
    write_index,
)
from lowerconv.data.spec import find_spec, load, parse_spec
from lowerconv.data.transform import LARGEST_SIDE
from lowerconv.data.writer import BLOCK_BYTES, QUALITY, ShardWriter
from lowerconv.files import PARTIAL, write_atomically
from lowerconv.locks import DirectoryLock

SIZE = 256  # pixels of the shorter side of a folder's images
SHARD_BYTES = 256 << 20  # a few hundred files for a large set; each is made in seconds
LONGEST = 4  # times the shorter side: crops hardly ever see more of a panorama

PIXELS, BYTES = Number(int, 1, LARGEST_SIDE // LONGEST), Number(int, 1, 2**63 - 1)


class _Part(NamedTuple):
    """Labels, and a function that returns an image (C, H, W)."""

    labels: npt.NDArray[np.int64]
    image: Callable[[int], npt.NDArray[np.uint8]]


class _Set(NamedTuple):
    """What is to be packed."""

    name: str
    classes: tuple[str, ...]
    size: tuple[int, int]
    parts: list[_Part]
    fingerprint: list[str]
    threads: int


class Packed(NamedTuple):
    """What `pack` has done.

    Attributes
    ----------
    images, bytes : int
        Images in the directory, and bytes of the shards there.
    made, found : int
        Shards made, and shards that were there already.
    """

    images: int
    bytes: int
    made: int
    found: int


def pack(
    source: str,
    directory: str | os.PathLike[str],
    size: int | None = None,
    encoded: bool = False,
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Packed:
    """Pack a data set into shards.

    Parameters
    ----------
    source : str
        What `load` takes, or a directory: of images, of CIFAR-10's binary files or of idx files.
    directory : path
        Where the shards go; made if it is not there. One where the same pack was broken off is
        completed.
    size : int, optional
        Of a folder's images: pixels of their shorter side, 256 by default. The whole image is kept,
        up to four times as long as wide, for augmentations to crop.
    encoded : bool
        Whether to store a folder's images as JPEG files, a sixth of the bytes.
    shard_bytes : int
        Bytes of the images in a shard at most; one image always fits.
    say : callable
        Given a line of text about what is out of the ordinary, such as a damaged shard.
    progress : callable
        Given how many images are done, and how many there are.

    Returns
    -------
    Packed
        Images and bytes in the directory, and how many shards were made and how many found.

    Raises
    ------
    ValueError
        An argument is wrong, or does not go with this source.
    DataError
        The source is missing or damaged, or the directory holds another data set.
    OSError
        The directory cannot be written; or another process packs into it, `locks.BusyError`.
    """
    shard_bytes = checked("shard_bytes", BYTES, shard_bytes)
    root = Path(directory).expanduser()
    pictures = _open_source(source, root, size, encoded)
    options = [int(encoded), shard_bytes, *pictures.size, QUALITY, BLOCK_BYTES, LONGEST]
    identity = _digest(
        [*map(str, options), pictures.name, *pictures.classes, *pictures.fingerprint]
    )
    root.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(root)
    closers: list[Callable[[], object]] = [lock.release]
    try:
        lock.acquire()
        _prepare(root, identity)
        return _fill(root, identity, pictures, encoded, shard_bytes, say, progress)
    finally:
        try:
            close_all(closers)
        except KeyboardInterrupt:
            close_all(closers)
            raise


def _fill(
    root: Path,
    identity: int,
    pictures: _Set,
    encoded: bool,
    shard_bytes: int,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> Packed:
    """Make the shards that are missing, and the index."""
    total, done = sum(len(part.labels) for part in pictures.parts), 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    entries: dict[str, list[dict[str, int]]] = {}
    made = 0
    for number, part in enumerate(pictures.parts):
        threads = pictures.threads
        writer = ShardWriter(number, *part, identity, encoded, shard_bytes, threads, advance)
        with closing(writer):
            shards = list(_pack_part(root, number, writer, len(pictures.classes), say))
        made += writer.shards
        entries[PARTS[number]] = [entry_of(shard) for shard in shards]
    index = {
        "format": INDEX_FORMAT,
        "name": pictures.name,
        "pack": f"{identity:016x}",
        "classes": list(pictures.classes),
        "size": list(pictures.size),
        "shards": entries,
    }
    write_atomically(root / INDEX, write_index(index))
    every = [entry for part_entries in entries.values() for entry in part_entries]
    return Packed(total, sum(entry["bytes"] for entry in every), made, len(every) - made)


def _pack_part(
    root: Path, part: int, writer: ShardWriter, classes: int, say: Callable[[str], None]
) -> Iterator[Shard]:
    """Yield the shards of a part: those that are there already, and the others made."""
    number = 0
    while not writer.done:
        path = root / shard_name(part, number)
        shard = _finished(path, part, number, classes, say)
        if shard is None:
            writer.write(path, number)
            shard = Shard(path, classes)
        else:
            writer.skip(len(shard.records))
        yield shard
        number += 1


def _open_source(source: str, target: Path, size: int | None, encoded: bool) -> _Set:
    spec = parse_spec(source := find_spec(source))
    if spec.kind == "shards":
        raise ValueError(f"source: got {source!r}, expected what has not been packed yet")
    if spec.kind != "folder":
        for name, value in (("size", size), ("encoded", encoded or None)):
            if value is not None:
                raise ValueError(
                    f"{name}: got {value!r} with {source!r}, expected it with a folder of images "
                    "only: these are packed as they are"
                )
        return _open_arrays(source)
    if size is not None and spec.size not in (None, size):
        raise ValueError(f"size: got {size} and {spec.size} in {source!r}, expected one of them")
    pixels = checked("size", PIXELS, next((n for n in (size, spec.size) if n is not None), SIZE))
    listing = list_folder(spec.directory or "")
    if target.resolve().is_relative_to(listing.root.resolve()):
        raise ValueError(f"directory: got {target} within {listing.root}, expected one outside")
    return _open_folder(listing, pixels)


def _open_arrays(source: str) -> _Set:
    parts = load(source)
    if max(parts[0].image_shape[1:]) > LARGEST_SIDE:
        height, width = parts[0].image_shape[1:]
        raise ValueError(f"source: got {height} x {width} pixels, expected at most {LARGEST_SIDE}")
    fingerprint, opened = [], []
    for part in parts:
        assert isinstance(part, Dataset)
        content = hashlib.blake2b(part.images.data, digest_size=16)
        content.update(part.labels.data)
        fingerprint.append(f"{part.images.shape} {content.hexdigest()}")
        opened.append(_Part(part.labels, part.images.__getitem__))
    train = parts[0]
    return _Set(train.name, train.classes, train.image_shape[1:], opened, fingerprint, threads=0)


def _open_folder(listing: Listing, size: int) -> _Set:
    fingerprint, opened = [], []
    for part in (listing.train, listing.test):
        files = [file for file, _ in part]
        for file in files:
            status = file.stat()
            name = file.relative_to(listing.root)
            fingerprint.append(f"{name} {status.st_size} {status.st_mtime_ns}")

        def image(i: int, files: list[Path] = files) -> npt.NDArray[np.uint8]:
            return read_image(files[i], (3, size, size), LONGEST * size)

        opened.append(_Part(np.array([label for _, label in part], np.int64), image))
    # Pillow releases the GIL while it decodes and resizes.
    return _Set(listing.name, listing.classes, (size, size), opened, fingerprint, cores())


def _digest(words: list[str]) -> int:
    text = json.dumps(words).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _prepare(root: Path, identity: int) -> None:
    """Refuse a directory that holds something else, and remove what was half written."""
    expected = "the same source and options as before, or another directory"
    for path in find_shards(root):
        with open(path, "rb") as file:
            start = file.read(HEADER.size)
        if not start.startswith(MAGIC):
            raise DataError.at(path, "byte 0", "no shard", "a shard, or no file of this name")
        if len(start) < HEADER.size:
            continue  # damaged: told, and made again, when its turn comes
        _, version, _, pack_, *_ = HEADER.unpack(start)
        if version == VERSION and pack_ != identity:
            raise DataError.at(path, "header", "a shard of another data set or size", expected)
    if (root / INDEX).exists():
        try:
            before = read_index(root / INDEX)
        except DataError:
            before = {}  # damaged: written anew
        if before.get("pack", f"{identity:016x}") != f"{identity:016x}":
            raise DataError.at(root / INDEX, "pack", "another data set", expected)
    for path in root.glob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _finished(
    path: Path, part: int, number: int, classes: int, say: Callable[[str], None]
) -> Shard | None:
    """Return a shard that is there already and whole; None if it has to be made."""
    if not path.exists():
        return None
    try:
        shard = Shard(path, classes)
        if (shard.header.part, shard.header.number) != (part, number):
            raise shard.error("header", "another shard of this data set", "the one of this name")
        for block in range(len(shard.blocks)):
            shard.check(block)
    except DataError as error:
        say(f"{error}; it is made again")
        return None
    return shard
