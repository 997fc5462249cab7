"""Held-out images: each in one part, the same ones for the same seed."""

import numpy as np
import pytest

from lowerconv.data import DataError, Dataset
from lowerconv.data.split import hold_out


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
