"""Reader of idx files, the format of MNIST and its successors.

::

    byte 0     0, 0        always zero
    byte 2     type        0x08: unsigned bytes
    byte 3     ndim        number of dimensions
    byte 4     size[0]     big-endian uint32, then size[1] .. size[ndim - 1]
    then       the elements, last dimension fastest, up to the end of the file

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section
"File formats".
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lowerconv.data.dataset import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_UBYTE = 0x08
_OTHER_TYPES = {
    0x09: "signed bytes",
    0x0B: "16-bit integers",
    0x0C: "32-bit integers",
    0x0D: "32-bit floats",
    0x0E: "64-bit floats",
}

#: Deflate codes at most 258 bytes in 2 bits: no stream expands further than this.
_MAX_EXPANSION = 1032

#: Bytes asked for at a time: memory grows with what the file holds, not with what it claims.
_CHUNK = 1 << 20


def read_idx(path: str | os.PathLike[str], ndim: int) -> npt.NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, plain or compressed by gzip.

    Whether it is compressed is seen from its first bytes, not from its name. A compressed file is
    expanded by at most one byte more than its header announces.

    Parameters
    ----------
    path : path
        The file.
    ndim : int
        Number of dimensions that it must have: 3 for images (N, H, W), 1 for labels (N,).

    Returns
    -------
    ndarray, uint8
        Of `ndim` dimensions, none of them 0; C-contiguous and writable.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, truncated or too long, or is another kind of file.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if not compressed:
                return _parse(path, file, ndim, size, expansion=1)
            with gzip.GzipFile(fileobj=file) as stream:
                return _parse(path, stream, ndim, size, _MAX_EXPANSION)
    except OSError as error:
        raise DataError.at(path, "file", str(error), "a readable file") from error


def _parse(
    path: Path, stream: io.BufferedIOBase, ndim: int, size: int, expansion: int
) -> npt.NDArray[np.uint8]:
    """Read header and elements from the stream of a file of ``size`` bytes.

    The stream gives at most ``expansion`` times as many bytes as the file has.
    """
    magic = _take(path, stream, 0, 4)
    if magic[:2] != b"\0\0":
        raise DataError.at(path, "byte 0", magic[:2].hex(" ") or "nothing", "00 00 (idx file)")
    if len(magic) < 4:
        raise DataError.at(path, f"byte {len(magic)}", "the end of the file", "a header of 4 bytes")
    if magic[2] != _UBYTE:
        meaning = _OTHER_TYPES.get(magic[2], "not an idx type")
        raise DataError.at(path, "byte 2", f"type {magic[2]:#04x} ({meaning})", "0x08 (bytes)")
    if magic[3] != ndim:
        raise DataError.at(path, "byte 3", f"{magic[3]} dimensions", f"{ndim}")

    start = 4 + 4 * ndim
    header = _take(path, stream, 4, 4 * ndim)
    if len(header) < 4 * ndim:
        raise DataError.at(
            path, f"byte {4 + len(header)}", "the end of the file", f"a header of {start} bytes"
        )
    shape = struct.unpack(f">{ndim}I", header)
    if 0 in shape:
        axis = shape.index(0)
        raise DataError.at(path, f"byte {4 + 4 * axis}", f"size 0 in dimension {axis}", ">= 1")

    # Python's integers: the product of the sizes may pass 2**64.
    count = math.prod(shape)
    expected = f"{count} bytes of data ({' x '.join(map(str, shape))})"
    if count > size * expansion - start:
        most = f"{size * expansion - start}{'' if expansion == 1 else ' at the most (gzip)'}"
        raise DataError.at(path, f"byte {start}", most, expected)
    # One byte more than announced shows excess data, and makes gzip verify its checksum.
    data = _take(path, stream, start, count + 1)
    if len(data) != count:
        found = f"{len(data)}" if len(data) < count else f"at least {len(data)}"
        raise DataError.at(path, f"byte {start}", found, expected)
    return np.frombuffer(data, np.uint8).reshape(shape)


def _take(path: Path, stream: io.BufferedIOBase, offset: int, count: int) -> bytearray:
    """Read ``count`` bytes, fewer only where the file ends; ``offset`` is where they start."""
    taken = bytearray()
    try:
        while len(taken) < count:
            chunk = stream.read(min(count - len(taken), _CHUNK))
            if not chunk:
                break
            taken += chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        where = f"byte {offset + len(taken)} or later, uncompressed"
        raise DataError.at(path, where, str(error), "an undamaged gzip stream") from error
    return taken
