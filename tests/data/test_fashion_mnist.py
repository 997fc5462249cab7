"""Fashion-MNIST: the part in the package, and the four files of the full set."""

import gzip
import struct
from importlib import resources

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowerconv.data import DataError, Dataset, load, read_fashion_mnist, read_idx

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(array):
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays(train=7, test=3, shape=(5, 4)):
    """The four arrays of a small set, by file name."""
    rng = np.random.default_rng(4)
    return {
        FILES[0]: rng.integers(0, 256, (train, *shape), np.uint8),
        FILES[1]: rng.integers(0, 10, train, np.uint8),
        FILES[2]: rng.integers(0, 256, (test, *shape), np.uint8),
        FILES[3]: rng.integers(0, 10, test, np.uint8),
    }


def write(directory, contents, compressed=()):
    for name, array in contents.items():
        if name in compressed:
            (directory / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (directory / name).write_bytes(idx(array))


def test_embedded_shape_and_balance():
    train, test = load("fashion-mnist")
    assert (len(train), len(test)) == (8500, 1500)
    assert train.image_shape == test.image_shape == (1, 28, 28)
    assert train.name == test.name == "fashion-mnist"
    assert train.classes == test.classes
    assert train.classes[0] == "T-shirt/top" and train.classes[9] == "Ankle boot"
    assert np.bincount(train.labels).tolist() == [850] * 10
    assert np.bincount(test.labels).tolist() == [150] * 10


def test_embedded_split_is_disjoint_and_complete():
    train, test = read_fashion_mnist()
    folder = resources.files("lowerconv.data") / "embedded"
    with resources.as_file(folder / f"{FILES[2]}.gz") as path:
        images = read_idx(path, ndim=3)
    with resources.as_file(folder / f"{FILES[3]}.gz") as path:
        labels = read_idx(path, ndim=1)
    train_images = {image.tobytes() for image in train.images}
    test_images = {image.tobytes() for image in test.images}
    assert not train_images & test_images
    assert train_images | test_images == {image.tobytes() for image in images}
    # Both keep the order of the file, and the last 150 of each class are for testing.
    for label in range(10):
        of_class = images[labels == label][:, np.newaxis]
        np.testing.assert_array_equal(train.images[train.labels == label], of_class[:850])
        np.testing.assert_array_equal(test.images[test.labels == label], of_class[850:])


def test_embedded_is_the_same_each_time():
    for first, second in zip(read_fashion_mnist(), read_fashion_mnist(), strict=True):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)


def test_embedded_licence_is_beside_the_files():
    text = (resources.files("lowerconv.data") / "embedded" / "LICENSE").read_text("utf-8")
    assert "zalandoresearch/fashion-mnist" in text and "2017 Zalando SE" in text


@pytest.mark.parametrize("compressed", [(), FILES, FILES[1:3]], ids=["plain", "gz", "mixed"])
def test_reads_directory(tmp_path, compressed):
    contents = arrays()
    write(tmp_path, contents, compressed)
    parts = load(f"fashion-mnist:{tmp_path}")
    for part, (images, labels) in zip(parts, (FILES[:2], FILES[2:]), strict=True):
        np.testing.assert_array_equal(part.images[:, 0], contents[images])
        np.testing.assert_array_equal(part.labels, contents[labels])
        assert part.images.flags.writeable


def test_plain_file_goes_before_compressed_one(tmp_path):
    write(tmp_path, arrays())
    write(tmp_path, arrays(shape=(2, 2)), FILES)
    assert read_fashion_mnist(tmp_path)[0].image_shape == (1, 5, 4)


@pytest.mark.parametrize("missing", FILES)
def test_missing_file(tmp_path, missing):
    write(tmp_path, arrays())
    (tmp_path / missing).unlink()
    message = rf"{missing}: file: found nothing, expected {missing} or {missing}\.gz"
    with pytest.raises(DataError, match=message):
        read_fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        pytest.param(
            FILES[1],
            np.zeros(6, np.uint8),
            "byte 4: found 6 labels, expected 7, one for each image in train-images",
            id="too-few-labels",
        ),
        pytest.param(
            FILES[3],
            np.array([9, 0, 10], np.uint8),
            r"label 2 \(byte 10, uncompressed\): found 10, expected 0\.\.9",
            id="label-10",
        ),
        pytest.param(
            FILES[2],
            np.zeros((3, 4, 5), np.uint8),
            "byte 8: found images of 4 x 5 pixels, expected 5 x 4 as in train-images",
            id="sizes-differ",
        ),
        pytest.param(
            FILES[0], np.zeros(7, np.uint8), "byte 3: found 1 dimensions", id="labels-for-images"
        ),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, name, array, message):
    write(tmp_path, arrays() | {name: array})
    with pytest.raises(DataError, match=message) as caught:
        read_fashion_mnist(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(FILES), where=st.integers(0), value=st.integers(-1, 255))
def test_damage_gives_an_error_or_a_dataset(tmp_path, name, where, value):
    contents = arrays(train=4, test=2)
    write(tmp_path, contents)
    data = bytearray(idx(contents[name]))
    where %= len(data)
    if value < 0:
        del data[where:]
    else:
        data[where] = value
    (tmp_path / name).write_bytes(data)
    try:
        train, test = read_fashion_mnist(tmp_path)
    except DataError as error:
        assert str(tmp_path) in str(error)
    else:
        assert isinstance(train, Dataset) and (len(train), len(test)) == (4, 2)
