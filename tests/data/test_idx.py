"""idx files: every way of being right, and every way of being wrong."""

import gzip
import io
import random
import struct
import tracemalloc

import numpy as np
import pytest

from lowerconv.data import DataError, read_idx


def idx(shape, data=None, *, kind=0x08, ndim=None):
    """The bytes of an idx file; a header alone where ``data`` is empty."""
    if data is None:
        data = np.random.default_rng(1).integers(0, 256, shape, np.uint8).tobytes()
    ndim = len(shape) if ndim is None else ndim
    return bytes([0, 0, kind, ndim]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.fixture(params=["plain", "gz"])
def write(request, tmp_path):
    """Write bytes as a plain and as a compressed file, and return the path."""

    def write(data):
        path = tmp_path / "some-idx"
        path.write_bytes(gzip.compress(data) if request.param == "gz" else data)
        return path

    return write


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4), (2, 3, 5), (1, 1, 1), (2, 1, 3, 2)])
def test_reads_what_was_written(write, shape):
    expected = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    result = read_idx(write(idx(shape, expected.tobytes())), ndim=len(shape))
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous and result.flags.writeable
    np.testing.assert_array_equal(result, expected)


def test_reads_more_than_one_chunk(write):
    data = np.resize(np.arange(251, dtype=np.uint8), 2_500_000)  # compresses fast
    np.testing.assert_array_equal(read_idx(write(idx(data.shape, data.tobytes())), 1), data)


def test_name_does_not_decide_whether_it_is_compressed(tmp_path):
    (tmp_path / "plain.gz").write_bytes(idx((4,)))
    (tmp_path / "packed").write_bytes(gzip.compress(idx((4,))))
    np.testing.assert_array_equal(
        read_idx(tmp_path / "plain.gz", 1), read_idx(str(tmp_path / "packed"), 1)
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "byte 0: found nothing, expected 00 00", id="empty"),
        pytest.param(b"\0", "byte 0: found 00, expected 00 00", id="one-byte"),
        pytest.param(b"\0\1\x08\3", "byte 0: found 00 01, expected 00 00", id="magic"),
        pytest.param(b"\x89PNG\r\n", "byte 0: found 89 50, expected 00 00", id="other-format"),
        pytest.param(b"\0\0\x08", "byte 3: found the end of the file", id="cut-in-magic"),
        pytest.param(
            idx((2, 2, 2), kind=0x0D), r"byte 2: found type 0x0d \(32-bit floats\)", id="floats"
        ),
        pytest.param(idx((2, 2, 2), kind=0x0A), "byte 2: found type 0x0a", id="no-such-type"),
        pytest.param(idx((2, 2)), "byte 3: found 2 dimensions, expected 3", id="ndim-2"),
        pytest.param(idx((), ndim=0), "byte 3: found 0 dimensions", id="ndim-0"),
        pytest.param(idx((2, 2, 2), ndim=255), "byte 3: found 255 dimensions", id="ndim-255"),
        pytest.param(
            idx((2, 2, 2))[:9], "byte 9: found the end of the file", id="cut-in-the-sizes"
        ),
        pytest.param(idx((2, 0, 2)), "byte 8: found size 0 in dimension 1", id="size-0"),
        pytest.param(idx((2, 3, 4), b""), r"byte 16: found \d+.*, expected 24", id="no-data"),
        pytest.param(idx((2, 3, 4), bytes(23)), "byte 16: found 23, expected 24", id="one-short"),
        pytest.param(
            idx((2, 3, 4), bytes(25)),
            r"byte 16: found at least 25, expected 24 bytes of data \(2 x 3 x 4\)",
            id="one-long",
        ),
        pytest.param(
            idx((2**20, 2**20, 2**20), bytes(99)),
            rf"byte 16: found \d+.*, expected {2**60} bytes",
            id="claims-2-to-60",
        ),
        pytest.param(
            idx((2**32 - 1,) * 3, bytes(99)),
            rf"byte 16: found \d+.*, expected {(2**32 - 1) ** 3} bytes",
            id="claims-more-than-64-bits",
        ),
    ],
)
def test_refuses(write, data, message):
    path = write(data)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, ndim=3)
    assert str(caught.value).startswith(f"{path}: ")


def test_plain_file_that_is_short_tells_the_exact_number(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(idx((2, 3, 4), bytes(20)))
    with pytest.raises(DataError, match="byte 16: found 20, expected 24 bytes of data"):
        read_idx(path, ndim=3)


@pytest.mark.parametrize("there", ["nothing", "folder"])
def test_unreadable_file(tmp_path, there):
    path = tmp_path / "missing"
    if there == "folder":
        path.mkdir()
    with pytest.raises(DataError, match="missing: file: found"):
        read_idx(path, ndim=1)


def damaged_gzip():
    whole = gzip.compress(idx((40, 50)))
    flipped_sum = bytearray(whole)
    flipped_sum[-8] ^= 1
    flipped_length = bytearray(whole)
    flipped_length[-1] ^= 1
    flipped_method = bytearray(whole)
    flipped_method[2] = 7
    broken_block = bytearray(whole)
    broken_block[10] |= 0b110  # block type 3 does not exist
    return {
        "header-cut": whole[:6],
        "stream-cut": whole[:300],
        "sum-cut": whole[:-3],
        "sum-wrong": bytes(flipped_sum),
        "length-wrong": bytes(flipped_length),
        "method-unknown": bytes(flipped_method),
        "block-broken": bytes(broken_block),
        "garbage-after": whole + b"garbage",
    }


@pytest.mark.parametrize("damage", damaged_gzip())
def test_damaged_gzip(tmp_path, damage):
    path = tmp_path / "damaged.gz"
    path.write_bytes(damaged_gzip()[damage])
    with pytest.raises(DataError, match=r"damaged\.gz: byte \d+ or later, .*undamaged gzip"):
        read_idx(path, ndim=2)


def test_gzip_bomb_is_expanded_no_further_than_its_header_says(tmp_path):
    path = tmp_path / "bomb.gz"
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as stream:
        stream.write(idx((100, 10), b""))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    path.write_bytes(buffer.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="found at least 1001, expected 1000 bytes"):
            read_idx(path, ndim=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_damage_gives_an_error_or_an_array(write):
    seed = 20240611
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = write(idx((6, 5, 4)))
    whole = path.read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            result = read_idx(path, ndim=3)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert result.dtype == np.uint8 and result.size == 120
