"""Writing shards: images made on threads, a shard in one sequential write."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from lowerconv.copying import not_copied
from lowerconv.data.pool import Job, Pool
from lowerconv.data.shards import BLOCK, COUNT, HEADER, RECORD, Header
from lowerconv.data.source import count_bytes
from lowerconv.files import write_atomically

BLOCK_BYTES = 1 << 20  # one checksum each: read and verified in a fifth of a millisecond
QUALITY = 95  # of JPEG


class Record(NamedTuple):
    """An image as it is stored."""

    content: bytes
    height: int
    width: int
    counts: npt.NDArray[np.int64]


@not_copied("make another from its arguments")
class ShardWriter:
    """Writes the shards of one part, one after another.

    Parameters
    ----------
    part : int
        0: train, 1: test.
    labels : ndarray, (N,), int64
    image : callable
        Given a number, returns that image, (C, H, W), uint8; called on several threads.
    pack : int
        Which data set the shards belong to.
    encoded : bool
        Whether to store JPEG files.
    shard_bytes : int
        Bytes of the images in a shard at most; one image always fits.
    threads : int
        That make images ahead of their use; 0 to make them here.
    advance : callable
        Told how many more images are done.

    Attributes
    ----------
    position : int
        Images done.
    shards : int
        Shards written.
    """

    def __init__(
        self,
        part: int,
        labels: npt.NDArray[np.int64],
        image: Callable[[int], npt.NDArray[np.uint8]],
        pack: int,
        encoded: bool,
        shard_bytes: int,
        threads: int,
        advance: Callable[[int], None] = lambda images: None,
    ) -> None:
        self.position = self.shards = 0
        self._advance = advance
        self._part, self._labels, self._image = part, labels, image
        self._pack, self._encoded, self._shard_bytes = pack, encoded, shard_bytes
        self._pool = Pool(threads, "lowerconv-pack") if threads else None
        self._depth = 4 * threads
        self._records: Iterator[Record] | None = None
        self._next: Record | None = None  # made already, for the next shard

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.close()

    def skip(self, records: int) -> None:
        """Pass over images that are in a finished shard."""
        self.position += records
        self._advance(records)
        self._records, self._next = None, None

    @property
    def done(self) -> bool:
        """Whether there are no more images."""
        return self.position == len(self._labels)

    def write(self, path: Path, number: int) -> None:
        """Make the next shard."""
        write_atomically(path, lambda file: self._write(file, number))
        self.shards += 1

    def _write(self, file: BinaryIO, number: int) -> None:
        if self._records is None:
            self._records = self._make(self.position)
            self._next = next(self._records)
        file.write(bytes(HEADER.size))
        at = HEADER.size
        records: list[tuple[int, ...]] = []
        blocks: list[tuple[int, ...]] = []
        block = [0, 0, at, 0]
        counts: Any = 0
        while self._next is not None:
            record = self._next
            length = len(record.content)
            if records and at + length > self._shard_bytes:
                break
            if block[3] >= BLOCK_BYTES:
                blocks.append(tuple(block))
                block = [len(records), 0, at, 0]
            file.write(record.content)
            block[1] = zlib.crc32(record.content, block[1])
            block[3] += length
            label = int(self._labels[self.position])
            records.append((at, length, label, record.height, record.width))
            counts = counts + record.counts
            at += length
            self.position += 1
            self._next = next(self._records, None)
            self._advance(1)
        blocks.append(tuple(block))
        table = counts.astype(COUNT).tobytes()
        table += np.array(blocks, BLOCK).tobytes() + np.array(records, RECORD).tobytes()
        file.write(table)
        header = Header(
            pack=self._pack,
            part=self._part,
            number=number,
            channels=len(counts),
            coded=int(self._encoded),
            records=len(records),
            blocks=len(blocks),
            table=at,
            table_crc=zlib.crc32(table),
        )
        file.seek(0)
        file.write(header.encode())

    def _make(self, first: int) -> Iterator[Record]:
        """Yield the images from one on, made on threads some time before they are asked for."""
        count = len(self._labels)
        if self._pool is None:
            yield from map(self._record, range(first, count))
            return
        waiting: deque[Job[Record]] = deque()
        for i in range(first, count):
            waiting.append(self._pool.submit(partial(self._record, i)))
            if len(waiting) >= self._depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _record(self, i: int) -> Record:
        pixels = np.ascontiguousarray(self._image(i))
        counts = count_bytes(pixels[np.newaxis])
        if self._encoded:
            buffer = io.BytesIO()
            image = Image.fromarray(pixels.transpose(1, 2, 0))
            image.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
            content = buffer.getvalue()
        else:
            content = pixels.tobytes()
        return Record(content, pixels.shape[1], pixels.shape[2], counts)
