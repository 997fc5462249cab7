"""ShardedValue-out images: each in one part, the same ones for the same seed."""

import numpy as np
import pytest

from lowerconv.data import DataError, Dataset, Loader, Normalizer, load, pack
from lowerconv.data.split import Subset, hold_out


def numbered(count: int) -> Dataset:
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    return Dataset("numbered", images, np.arange(count) % 3, ("a", "b", "c"))


def test_every_image_is_in_one_part_with_its_label():
    train, held = hold_out(numbered(40), 0.25, seed=3)
    assert (len(train), len(held)) == (30, 10)
    values = np.concatenate([train.images, held.images]).ravel()
    assert sorted(values) == list(range(40))
    for part in (train, held):
        assert np.array_equal(part.labels, part.images.ravel() % 3)
        assert (np.diff(part.images.ravel().astype(int)) > 0).all()


def test_the_seed_decides():
    parts = [hold_out(numbered(40), 0.5, seed)[1].images.tobytes() for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_empty_parts_are_refused(fraction):
    with pytest.raises(DataError, match=r"'numbered': validation of .*: found .* of 10 images"):
        hold_out(numbered(10), fraction, 0)


def test_shards_are_held_out_without_a_copy(tiny_fashion, tmp_path, monkeypatch):
    monkeypatch.setattr("lowerconv.data.packing.BLOCK_BYTES", 4000)
    spec = f"fashion-mnist:{tiny_fashion}"
    pack(spec, tmp_path, shard_bytes=50_000)
    whole, _ = load(f"shards:{tmp_path}")
    parts = hold_out(whole, 0.3, seed=4)
    for part, expected in zip(parts, hold_out(load(spec)[0], 0.3, seed=4), strict=True):
        assert isinstance(part, Subset)
        assert (part.name, part.classes) == (expected.name, expected.classes)
        assert (part.image_shape, part.stored_size) == ((1, 28, 28), (28, 28))
        normalizer = Normalizer(whole)
        for seed in (None, 7):
            (found,) = Loader(part, normalizer, len(part)).batches(seed)
            images = normalizer(expected.images, found.indices)
            assert np.array_equal(found.images, images)
            assert np.array_equal(found.labels, expected.labels[found.indices])
        assert sorted(found.indices) == list(range(len(part)))


def test_runs_of_a_part_are_those_that_hold_its_images():
    class Source(Dataset):
        runs = np.array([[0, 100], [4, 200], [8, 300], [9, 400]])

    part = Subset(Source(**vars(numbered(12))), np.array([1, 2, 9, 11]))
    assert part.runs.tolist() == [[0, 100], [2, 400]]
    assert Subset(numbered(12), np.arange(3)).runs is None
