"""Shards that are damaged, exchanged or of others."""

import json
import os
import pickle
import zlib

import numpy as np
import pytest

from lowerconv.data import DataError, load, pack, read_shards
from lowerconv.data.shards import HEADER, MAGIC, Header, Shard
from lowerconv.data.shardset import write_index
from tests.data.test_shards import images_of, use


def test_every_byte_of_the_header_counts(packed):
    path = packed / "train-00001.shard"
    whole = path.read_bytes()
    for i in range(HEADER.size):
        data = bytearray(whole)
        data[i] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"train-00001\.shard: (byte 0|byte 8|header): found"):
            load(f"shards:{packed}")


@pytest.mark.parametrize("name", ["train-00001.shard", "test-00000.shard", "index.json"])
def test_truncated_longer_empty_missing_foreign(packed, name):
    path = packed / name
    whole = path.read_bytes()
    others = {
        "empty": b"",
        "one-byte": whole[:1],
        "header-only": whole[: HEADER.size],
        "half": whole[: len(whole) // 2],
        "one-byte-short": whole[:-2],  # the last one of the index is a line feed
        "one-byte-long": whole + b"x",
        "text": b"hello " * 100,
        "zeros": bytes(len(whole)),
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(1000),
        "another-shard": (packed / "train-00002.shard").read_bytes(),
        "another-index": b'{"index": {"format": "x"}, "crc": 3}',
    }
    for what, other in others.items():
        path.write_bytes(other)
        with pytest.raises(DataError) as caught:
            load(f"shards:{packed}")
        assert str(path) in str(caught.value), what
    path.unlink()
    with pytest.raises(DataError, match=r"found (nothing|No such file)") as caught:
        load(f"shards:{packed}")
    assert str(path) in str(caught.value)
    path.mkdir()
    with pytest.raises(DataError) as caught:
        load(f"shards:{packed}")
    assert str(path) in str(caught.value)


def test_exchanged_shards_are_noticed(packed):
    one, other = packed / "train-00000.shard", packed / "train-00001.shard"
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    with pytest.raises(DataError, match=r"train-00000\.shard: header: found another shard"):
        load(f"shards:{packed}")


def test_copies_are_of_the_same_shards(packed, monkeypatch):
    monkeypatch.chdir(packed.parent)
    train, _ = read_shards(packed.name)
    monkeypatch.chdir("/")
    pickled = pickle.dumps(train)
    for ours, theirs in zip(images_of(pickle.loads(pickled)), images_of(train), strict=True):
        assert np.array_equal(ours, theirs)
    os.replace(packed / "test-00000.shard", packed / "train-00000.shard")
    with pytest.raises(DataError, match=r"train-00000\.shard: header: found another shard"):
        pickle.loads(pickled)


def test_a_later_version_is_named(packed):
    path = packed / "train-00000.shard"
    data = bytearray(path.read_bytes())
    data[8] = 2
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"byte 8: found version 2, expected version 1"):
        load(f"shards:{packed}")
    content = json.loads((packed / "index.json").read_text())["index"] | {"format": "shards 9"}
    (packed / "index.json").write_bytes(write_index(content))
    with pytest.raises(DataError, match=r"index\.json: format: found 'shards 9', expected 'low"):
        load(f"shards:{packed}")


def test_tables_that_lie_are_refused(packed):
    """With right checksums, as a program with a mistake could write them: nothing may be read."""
    seed = 20250801
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    path = packed / "train-00000.shard"
    whole = path.read_bytes()
    shard = Shard(path, 10)
    header, counts = shard.header, 256 * 8
    for _ in range(300):
        table = bytearray(whole[header.table :])
        at = rng.integers(counts, len(table))
        table[at] ^= 1 << rng.integers(8)
        changed = header._replace(table_crc=zlib.crc32(table))
        path.write_bytes(changed.encode() + whole[HEADER.size : header.table] + table)
        try:
            damaged = Shard(path, 10)
        except DataError as error:
            assert "numbers that contradict each other" in str(error)
            continue
        ends = damaged.records["offset"] + damaged.records["length"]
        assert ends.max() <= header.table and damaged.records["label"].max() < 10
        sides = damaged.records["height"].astype(int) * damaged.records["width"]
        assert (sides == damaged.records["length"]).all()
    for change in ({"records": 0}, {"blocks": 0}, {"channels": 0}, {"coded": 1}, {"table": 2**40}):
        path.write_bytes(header._replace(**change).encode() + whole[HEADER.size :])
        if change != {"coded": 1}:  # of which the images tell
            with pytest.raises(DataError, match=r"train-00000\.shard: "):
                Shard(path, 10)


def test_damage_within_a_jpeg_is_named(folder, tmp_path):
    pack(str(folder), tmp_path, size=32, encoded=True)
    path = tmp_path / "train-00000.shard"
    shard = Shard(path, 2)
    data, at = bytearray(path.read_bytes()), int(shard.records["offset"][3])
    data[at : at + 4] = b"none"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-00000\.shard: records 0 to 15 \(bytes 64 to"):
        use(tmp_path)
    with pytest.raises(DataError, match=r"train-00000\.shard: record 3: found cannot identify"):
        Shard(path, 2).decode(3)


def test_header_is_as_documented():
    header = Header(2**63 + 5, 1, 7, 3, 0, 100, 2, 2**33, 0xDEADBEEF)
    data = header.encode()
    assert len(data) == 64 and data.startswith(MAGIC)
    assert int.from_bytes(data[16:24], "little") == header.pack
    assert int.from_bytes(data[24:28], "little") == 1
    assert int.from_bytes(data[48:56], "little") == 2**33
    assert int.from_bytes(data[56:60], "little") == 0xDEADBEEF
