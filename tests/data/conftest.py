"""Packed data sets, which several files of tests read."""

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import pack, writer

SHARD_BYTES = 40_000  # some 50 images of Fashion-MNIST


def photo(width, height, seed=0):
    """Something smooth, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = [127 + 90 * np.sin(x / 17 + c + seed) * np.cos(y / 13 - c) for c in range(3)]
    pixels = np.stack(planes, axis=2) + rng.normal(0, 3, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks in a shard of a few images."""
    monkeypatch.setattr(writer, "BLOCK_BYTES", 5_000)


@pytest.fixture
def packed(tiny_fashion, tmp_path, small_blocks):
    """Shards of 203 + 52 images."""
    pack(f"fashion-mnist:{tiny_fashion}", tmp_path / "shards", shard_bytes=SHARD_BYTES)
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of images of many sizes, and larger than the size they are packed at."""
    root = tmp_path_factory.mktemp("pictures")
    sizes = [(64, 64), (90, 60), (60, 91), (200, 50), (33, 47), (300, 31), (64, 128), (57, 57)]
    for part, count in (("train", 16), ("test", 4)):
        for i in range(count):
            path = root / part / ("cat", "dog")[i % 2] / f"{i:02}.{('png', 'jpg')[i % 3 == 0]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(*sizes[i % len(sizes)], seed=i).save(path)
    return root
