"""Shards: what is packed comes back, a pack goes on where it was, and no damage goes unnoticed."""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lowerconv.data import DataError, Normalizer, load, pack, read_folder, read_shards
from lowerconv.data.shards import HEADER, Shard
from tests.data.conftest import SHARD_BYTES, photo
from tests.long import LONG


def images_of(source, indices=None):
    """Copies of images of any source, as a loader finds them."""
    indices = np.arange(len(source)) if indices is None else np.array(indices, np.int64)
    pixels = source.locate(indices)
    channels = source.image_shape[0]
    images = []
    for address, (height, width) in zip(pixels.addresses, pixels.sizes, strict=True):
        size = int(channels * height * width)
        content = ctypes.string_at(int(address), size)
        images.append(np.frombuffer(content, np.uint8).reshape(channels, height, width))
    return images


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


# What comes back


def test_arrays_come_back(packed, tiny_fashion):
    expected = load(f"fashion-mnist:{tiny_fashion}")
    for found, part in zip(load(f"shards:{packed}"), expected, strict=True):
        assert (found.name, found.classes) == (part.name, part.classes)
        assert len(found) == len(part) and found.image_shape == part.image_shape
        np.testing.assert_array_equal(found.labels, part.labels)
        np.testing.assert_array_equal(images_of(found), part.images)
        np.testing.assert_array_equal(found.histogram(), part.histogram())
        np.testing.assert_array_equal(Normalizer(found).table, Normalizer(part.images).table)
        found.verify_all()
    names = sorted(path.name for path in packed.iterdir())
    assert names == [
        "index.json",
        "test-00000.shard",
        "test-00001.shard",
        *(f"train-0000{i}.shard" for i in range(5)),
    ]
    for path in packed.glob("*.shard"):
        assert Shard(path, 10).header.table <= SHARD_BYTES
        assert len(Shard(path, 10).blocks) > 4 or path.name in ("train-00004.shard", names[2])


def test_any_order_of_images(packed, tiny_fashion):
    train, _ = read_shards(packed)
    expected, _ = load(f"fashion-mnist:{tiny_fashion}")
    indices = np.random.default_rng(0).integers(0, 203, 300)
    np.testing.assert_array_equal(images_of(train, indices), expected.images[indices])
    assert images_of(train, []) == []


def test_the_embedded_set(tmp_path):
    pack("fashion-mnist", tmp_path)
    train, test = load(f"shards:{tmp_path}")
    assert (len(train), len(test), train.image_shape) == (8500, 1500, (1, 28, 28))
    assert len(list(tmp_path.glob("*.shard"))) == 2


@pytest.mark.parametrize("spec", [True, False], ids=["spec", "directory"])
def test_cifar10(tmp_path, spec):
    rng = np.random.default_rng(1)
    for i, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records = rng.integers(0, 256, (i + 2, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / name)
    pack(f"cifar10:{tmp_path}" if spec else str(tmp_path), tmp_path / "shards")
    for found, part in zip(
        load(f"shards:{tmp_path / 'shards'}"), load(f"cifar10:{tmp_path}"), strict=True
    ):
        np.testing.assert_array_equal(images_of(found), part.images)
        np.testing.assert_array_equal(found.labels, part.labels)


def test_a_folder_is_stored_whole(folder, tmp_path):
    pack(str(folder), tmp_path, size=32)
    train, test = load(f"shards:{tmp_path}")
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0] * 8 + [1] * 8 and train.image_shape == (3, 32, 32)
    images = images_of(train)
    shapes = {image.shape[1:] for image in images}
    assert {(32, 32), (32, 48), (48, 32), (32, 128)} <= shapes  # 200 x 50: 4 times as wide
    assert all(min(shape) == 32 and max(shape) <= 128 for shape in shapes)
    # The square in the middle is what reading the folder gives.
    for image, square in zip(images, read_folder(folder, 32)[0].images, strict=True):
        top, left = ((side - 32) // 2 for side in image.shape[1:])
        middle = image[:, top : top + 32, left : left + 32].astype(int)
        assert np.abs(middle - square).max() <= 1


@pytest.mark.parametrize("option", ["size", "spec"])
def test_sizes(folder, tmp_path, option):
    if option == "size":
        pack(f"folder:{folder}", tmp_path, size=20)
    else:
        pack(f"folder:{folder}?size=20", tmp_path)
    assert load(f"shards:{tmp_path}")[0].image_shape == (3, 20, 20)
    assert load(f"shards:{tmp_path}?size=16")[0].image_shape == (3, 16, 16)
    with pytest.raises(DataError, match=r"train-00000\.shard: record 0: .* at least 21 x 21"):
        load(f"shards:{tmp_path}?size=21")


def test_encoded_images(folder, tmp_path):
    pack(str(folder), tmp_path / "raw", size=32)
    pack(str(folder), tmp_path / "jpeg", size=32, encoded=True)
    raw, jpeg = (load(f"shards:{tmp_path / name}")[0] for name in ("raw", "jpeg"))
    for a, b in zip(images_of(raw), images_of(jpeg), strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(int) - b).mean() < 4
    np.testing.assert_array_equal(raw.histogram(), jpeg.histogram())
    sizes = [
        sum(file.stat().st_size for file in (tmp_path / name).iterdir()) for name in ("raw", "jpeg")
    ]
    assert sizes[1] < sizes[0] / 2


def test_one_image_always_fits(tiny_fashion, tmp_path):
    done = pack(f"fashion-mnist:{tiny_fashion}", tmp_path, shard_bytes=1)
    assert done.made == 203 + 52
    train, _ = load(f"shards:{tmp_path}")
    np.testing.assert_array_equal(images_of(train), load(f"fashion-mnist:{tiny_fashion}")[0].images)


# What is refused


def test_packing_refuses(folder, tiny_fashion, tmp_path):
    for arguments, message in (
        ({"source": "imagenet"}, "data: got 'imagenet'"),
        ({"source": f"shards:{folder}"}, "source: got .*expected what has not been packed"),
        ({"source": str(tiny_fashion), "size": 3}, "size: got 3 with .*fashion.*packed as they"),
        ({"source": str(tiny_fashion), "encoded": True}, "encoded: got True with"),
        ({"source": f"folder:{folder}?size=3", "size": 4}, "size: got 4 and 3 in"),
        ({"source": str(folder), "size": 0}, "size: got 0"),
        (
            {"source": str(folder), "size": 9999},
            "size: got 9999, expected at least 1 and at most 8191",
        ),
        ({"source": str(folder), "shard_bytes": 0}, "shard_bytes: got 0"),
        ({"source": f"folder:{tmp_path / 'away'}"}, "directory: found nothing"),
    ):
        with pytest.raises(ValueError, match=message):
            pack(directory=tmp_path / "out", **arguments)
        assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"directory: got .* within .*, expected one outside"):
        pack(str(folder), folder / "train" / "shards")


def test_a_damaged_image_is_named(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "pictures")
    broken = tmp_path / "pictures/train/dog/05.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=r"05\.png: image: found"):
        pack(str(tmp_path / "pictures"), tmp_path / "shards", size=16)
    assert not list((tmp_path / "shards").glob("*.partial"))


# Going on


def test_finished_shards_are_not_made_again(packed, tiny_fashion):
    whole = content(packed)
    stamps = {path.name: path.stat().st_mtime_ns for path in packed.glob("*.shard")}
    for lost in (["index.json"], ["train-00002.shard"], ["train-00003.shard", "test-00000.shard"]):
        for name in lost:
            (packed / name).unlink()
        (packed / "train-00002.shard.123.partial").write_bytes(b"half")
        done = pack(f"fashion-mnist:{tiny_fashion}", packed, shard_bytes=SHARD_BYTES)
        assert done.made == sum(name.endswith("shard") for name in lost)
        assert done.made + done.found == 7 and done.images == 255
        assert content(packed) == whole
        for name, stamp in stamps.items():
            if name not in lost:
                assert (packed / name).stat().st_mtime_ns == stamp
        stamps = {path.name: path.stat().st_mtime_ns for path in packed.glob("*.shard")}


def test_a_damaged_shard_is_made_again(packed, tiny_fashion):
    whole = content(packed)
    data = bytearray(whole["train-00001.shard"])
    data[300] ^= 1
    (packed / "train-00001.shard").write_bytes(data)
    shutil.copy(packed / "train-00000.shard", packed / "train-00002.shard")
    said = []
    done = pack(f"fashion-mnist:{tiny_fashion}", packed, shard_bytes=SHARD_BYTES, say=said.append)
    assert done.made == 2 and content(packed) == whole
    assert len(said) == 2 and "train-00001.shard: records 0 to 6" in said[0]
    assert "train-00002.shard: header: found another shard" in said[1]


def test_another_pack_is_refused(packed, tiny_fashion, folder):
    whole = content(packed)
    for arguments in (
        {"source": str(folder)},
        {"source": f"fashion-mnist:{tiny_fashion}", "shard_bytes": SHARD_BYTES + 1},
    ):
        with pytest.raises(DataError, match=r"shard: header: found a shard of another data set"):
            pack(directory=packed, **arguments)
    (packed / "train-00000.shard").write_bytes(b"a diary")
    with pytest.raises(DataError, match=r"train-00000\.shard: byte 0: found no shard"):
        pack(f"fashion-mnist:{tiny_fashion}", packed, shard_bytes=SHARD_BYTES)
    for path in packed.glob("*.shard"):
        path.unlink()
    with pytest.raises(DataError, match=r"index\.json: pack: found another data set"):
        pack(str(folder), packed)
    assert content(packed) == {"index.json": whole["index.json"]}


def test_a_killed_pack_goes_on(folder, tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for i in range(300):
        path = tmp_path / f"pictures/c{i % 3}/{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(60, 50, seed=i).save(path)
    arguments = [str(tmp_path / "pictures"), "32", "40000"]
    program = (
        "import sys\n"
        "from lowerconv.data import pack\n"
        "import time\n"
        "pack(sys.argv[1], sys.argv[4], size=int(sys.argv[2]), shard_bytes=int(sys.argv[3]),\n"
        "     progress=lambda done, total: time.sleep(0.005))\n"  # for there is time to kill it
    )
    command = [sys.executable, "-c", program, *arguments]
    pack(arguments[0], tmp_path / "unbroken", size=32, shard_bytes=40000)
    broken = tmp_path / "broken"
    kills, kept = 0, {}
    for _ in range(4 if LONG else 2):
        process = subprocess.Popen([*command, str(broken)])
        before = len(list(broken.glob("*.shard")))
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(broken.glob("*.shard"))) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        for path in broken.glob("*.shard"):
            stamp = path.stat().st_mtime_ns
            assert kept.setdefault(path.name, stamp) == stamp
    assert kills > 0
    assert subprocess.run([*command, str(broken)]).returncode == 0
    assert content(broken) == content(tmp_path / "unbroken")


# Damage


def use(directory: Path) -> bytes:
    """Read every image and label."""
    found = []
    for part in load(f"shards:{directory}"):
        found += [part.labels.tobytes(), *(image.tobytes() for image in images_of(part))]
    return b"".join(found)


@pytest.mark.parametrize("encoded", [False, True], ids=["pixels", "jpeg"])
def test_every_flipped_byte_is_noticed(packed, folder, tmp_path, encoded):
    if encoded:
        packed = tmp_path / "encoded"
        pack(str(folder), packed, size=24, encoded=True)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    whole, right = content(packed), use(packed)
    names, refused = sorted(whole), 0
    for number in range(240):
        name = names[number % len(names)]
        data = bytearray(whole[name])
        # Headers and tables are where damage could do most.
        end = rng.choice((HEADER.size, len(data)))
        start = rng.choice((0, max(0, end - 3000)))
        data[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
        (packed / name).write_bytes(data)
        try:
            assert use(packed) == right  # an index whose blanks or names of keys say the same
            assert name == "index.json"
        except DataError as error:
            refused += 1
            assert str(packed / name) in str(error)
        (packed / name).write_bytes(whole[name])
    assert refused > 220
    assert use(packed) == right
