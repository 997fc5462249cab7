"""Shards: the images of a data set one after another in a few large files, which are mapped.

A directory of them::

    index.json           written last: what is in the data set, and the checksum of each shard
    train-00000.shard    train-00001.shard  ...      test-00000.shard  ...

A shard, all numbers little-endian::

    byte 0       "LCSHARD" 0       what the file is
    byte 8       version           1
    byte 12      crc               of bytes 16..63
    byte 16      pack              which data set it belongs to
    byte 24      part, number      0: train, 1: test; place among the shards of its part
    byte 32      channels, coded   coded: 1 where images are JPEG files, 0 where they are bytes
    byte 40      records, blocks   how many there are
    byte 48      table             where the table begins
    byte 56      crc               of the table
    byte 60      0
    byte 64      record 0, record 1, ...     without gaps; bytes are (C, H, W)
    table        256 x channels    how often each byte occurs in each channel
                 blocks            first record, crc, offset, length: about 1 MiB of records each
                 records           offset, length, label, height, width
    the end

Every byte is covered: the header by its own checksum, the table by the header's, the images by
those of their blocks, and the header in turn by the index. So opening a shard reads its table, and
images are verified block by block when they are first used, in one sequential read each.

Finished files never change. To cut one off while a program has it mapped ends that program.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from lowerconv.data.dataset import DataError
from lowerconv.data.transform import LARGEST_SIDE

MAGIC, VERSION = b"LCSHARD\0", 1
HEADER = struct.Struct("<8sIIQIIIIIIQII")
COUNT = np.dtype("<u8")
BLOCK = np.dtype([("first", "<u4"), ("crc", "<u4"), ("offset", "<u8"), ("length", "<u8")])
RECORD = np.dtype(
    [("offset", "<u8"), ("length", "<u4"), ("label", "<u4"), ("height", "<u4"), ("width", "<u4")]
)
PARTS = ("train", "test")


class Header(NamedTuple):
    """The first bytes of a shard, as its picture above names them."""

    pack: int
    part: int
    number: int
    channels: int
    coded: int
    records: int
    blocks: int
    table: int
    table_crc: int

    def encode(self) -> bytes:
        """Return the bytes."""
        rest = HEADER.pack(MAGIC, VERSION, 0, *self, 0)[16:]
        return HEADER.pack(MAGIC, VERSION, zlib.crc32(rest), *self, 0)


def shard_name(part: int, number: int) -> str:
    """Return the name of a shard's file."""
    return f"{PARTS[part]}-{number:05d}.shard"


class Shard:
    """One shard, mapped; its header and table are whole, its images are verified by `check`.

    Parameters
    ----------
    path : Path
    classes : int
        How many there are.

    Raises
    ------
    DataError
        It cannot be read, is no shard, or is damaged; the message names the file.
    """

    def __init__(self, path: Path, classes: int) -> None:
        self.path, self._classes = path, classes
        self._absolute = Path(os.path.abspath(path))  # wherever the process goes
        try:
            with open(path, "rb") as file:
                self.bytes = os.fstat(file.fileno()).st_size
                if self.bytes < HEADER.size:
                    raise self.error("header", f"{self.bytes} bytes", f"{HEADER.size} or more")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            cure = "a readable file"
            if error.errno == errno.EMFILE:
                cure += "; allow more open files (ulimit -n), or pack into larger shards"
            raise self.error("file", error.strerror or str(error), cure) from error
        self.data = np.frombuffer(self._map, np.uint8)
        self.header = self._read_header()
        self._read_table(classes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._absolute, self._classes, self.header)

    def error(self, where: str, found: str, expected: str) -> DataError:
        """Return an error that names this shard."""
        return DataError.at(self.path, where, found, expected)

    def _read_header(self) -> Header:
        start = self._map[: HEADER.size]
        magic, version, crc, *fields, reserved = HEADER.unpack(start)
        if magic != MAGIC:
            raise self.error("byte 0", repr(magic), f"{MAGIC!r} (a shard of lowerconv pack)")
        if version != VERSION:
            raise self.error("byte 8", f"version {version}", f"version {VERSION}")
        if crc != zlib.crc32(start[16:]) or reserved:
            raise self.error("header", "damage: another checksum than it has stored", f"{crc:08x}")
        return Header(*fields)

    def _read_table(self, classes: int) -> None:
        header = self.header
        counts = header.channels * 256
        length = counts * COUNT.itemsize
        length += header.blocks * BLOCK.itemsize + header.records * RECORD.itemsize
        if header.table + length != self.bytes:
            expected = f"{header.table + length} bytes, {header.records} records"
            raise self.error("file", f"{self.bytes} bytes", expected)
        table = self._map[header.table :]
        if zlib.crc32(table) != header.table_crc:
            raise self.error(
                f"table (byte {header.table})",
                "damage: another checksum than the header has",
                f"{header.table_crc:08x}",
            )
        self.counts = np.frombuffer(table, COUNT, counts).reshape(-1, 256).astype(np.int64)
        at = counts * COUNT.itemsize
        self.blocks = np.frombuffer(table, BLOCK, header.blocks, at)
        self.records = np.frombuffer(table, RECORD, header.records, at + self.blocks.nbytes)
        self._check_table(classes)

    def _check_table(self, classes: int) -> None:
        """Whatever wrote it: what is read through these numbers must lie within the file."""
        header, records, blocks = self.header, self.records, self.blocks
        follow = header.records > 0 and header.blocks > 0 and header.channels > 0
        for spans in (records, blocks):
            offsets, lengths = (spans[name].astype(np.int64) for name in ("offset", "length"))
            ends = np.append(offsets, header.table)
            follow = follow and bool((ends[0] == HEADER.size) & (np.diff(ends) == lengths).all())
            follow = follow and bool((lengths > 0).all())
        first = np.append(blocks["first"].astype(np.int64), header.records)
        follow = follow and bool(first[0] == 0 and (np.diff(first) > 0).all())
        follow = follow and bool((records["offset"][first[:-1]] == blocks["offset"]).all())
        sides = np.stack([records["height"], records["width"]]).astype(np.int64)
        follow = follow and bool(sides.min() > 0 and sides.max() <= LARGEST_SIDE)
        if not header.coded:
            follow = follow and bool((records["length"] == sides.prod(0) * header.channels).all())
        if not (follow and records["label"].max() < classes):
            raise self.error(
                "table", "numbers that contradict each other", "one record after another"
            )

    def check(self, block: int) -> None:
        """Verify the images of a block.

        Raises
        ------
        DataError
            They are damaged.
        """
        first, crc, offset, length = (int(value) for value in self.blocks[block])
        found = zlib.crc32(self.data[offset : offset + length].data)  # lets other threads run
        if found != crc:
            last = len(self.records)
            if block + 1 < len(self.blocks):
                last = int(self.blocks["first"][block + 1])
            where = f"records {first} to {last - 1} (bytes {offset} to {offset + length - 1})"
            raise self.error(where, f"damage: checksum {found:08x}", f"{crc:08x}")

    def advise(self, offset: int, length: int) -> None:
        """Have the system read a part of the file while this thread does something else."""
        if hasattr(mmap, "MADV_WILLNEED"):
            start = offset - offset % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, length + offset - start)

    def decode(self, record: int) -> npt.NDArray[np.uint8]:
        """Return an image that is stored as a JPEG file, (C, H, W)."""
        entry = self.records[record]
        offset, length = int(entry["offset"]), int(entry["length"])
        shape = (self.header.channels, int(entry["height"]), int(entry["width"]))
        try:
            with Image.open(
                io.BytesIO(self._map[offset : offset + length]), formats=("JPEG",)
            ) as image:
                pixels = np.asarray(image)
        except Exception as error:  # decoders raise whatever they stumble over
            reason = f"{error} ({type(error).__name__})"
            raise self.error(f"record {record}", reason, "a JPEG image") from error
        pixels = np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))
        if pixels.shape != shape:
            raise self.error(f"record {record}", f"an image {pixels.shape}", str(shape))
        return pixels


def _reopened(path: Path, classes: int, header: Header) -> Shard:
    """Return a shard that was open elsewhere, as it was."""
    shard = Shard(path, classes)
    if shard.header != header:
        raise shard.error("header", "another shard", "the one that a copy was made of")
    return shard
