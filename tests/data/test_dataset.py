"""The dataset's own checks, and the specifications that ``load`` takes."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from lowerconv.data import DataError, Dataset, load
from lowerconv.data.spec import find_spec


def fields(**changes):
    """Arguments of a valid dataset of three images of 2 x 4 x 5, with changes."""
    images = np.arange(3 * 2 * 4 * 5, dtype=np.uint8).reshape(3, 2, 4, 5)
    valid = {
        "name": "toy",
        "images": images,
        "labels": np.array([0, 1, 1]),
        "classes": ("left", "right"),
    }
    return valid | changes


def test_valid_dataset():
    dataset = Dataset(**fields())
    assert len(dataset) == 3
    assert dataset.image_shape == (2, 4, 5)


def test_dataset_is_frozen():
    with pytest.raises(AttributeError):
        Dataset(**fields()).name = "other"


IMAGES = fields()["images"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"images": IMAGES.tolist()}, "images: found list", id="images-list"),
        pytest.param({"images": IMAGES.astype("f4")}, "images: found float32", id="images-float"),
        pytest.param({"images": IMAGES[0]}, r"images: found uint8 \(2, 4, 5\)", id="images-3d"),
        pytest.param({"images": IMAGES[:0]}, r"images: found shape \(0,", id="no-images"),
        pytest.param({"images": IMAGES[:, :0]}, "images: found shape", id="no-channels"),
        pytest.param({"images": IMAGES[..., ::-1]}, "images: found strides", id="images-strided"),
        pytest.param({"labels": [0, 1, 1]}, "labels: found list", id="labels-list"),
        pytest.param({"labels": np.zeros(3, "i4")}, "labels: found int32", id="labels-int32"),
        pytest.param({"labels": np.zeros((3, 1), "i8")}, "labels: found int64", id="labels-2d"),
        pytest.param({"labels": np.zeros(2, "i8")}, "labels: found 2 labels", id="labels-few"),
        pytest.param(
            {"labels": np.array([0, 2, 1])}, r"labels\[1\]: found label 2.* 0\.\.1", id="label-high"
        ),
        pytest.param(
            {"labels": np.array([0, 1, -1])}, r"labels\[2\]: found label -1", id="label-negative"
        ),
        pytest.param({"classes": ["left", "right"]}, "classes: found", id="classes-list"),
        pytest.param({"classes": (0, 1)}, "classes: found", id="classes-numbers"),
        pytest.param({"classes": ()}, "classes: found", id="no-classes"),
        pytest.param({"classes": ("left", "left")}, "classes: found", id="class-twice"),
    ],
)
def test_dataset_refuses(changes, message):
    with pytest.raises(DataError, match=f"^dataset 'toy': {message}"):
        Dataset(**fields(**changes))


def test_error_names_its_four_parts_and_crosses_processes():
    error = DataError.at("a.idx", "byte 3", "1 dimensions", "3")
    assert str(error) == "a.idx: byte 3: found 1 dimensions, expected 3"
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "mnist",
        "cifar10",
        "cifar10:",
        "folder",
        "folder:",
        "shards",
        "shards:",
        "fashion-mnist:",
        "Fashion-MNIST",
        "fashion-mnist ",
        ":/tmp",
        "imagenet:/tmp",
    ],
)
def test_load_refuses_unknown_spec(spec):
    with pytest.raises(ValueError, match=r"^data: got .*fashion-mnist, .*cifar10:DIR") as caught:
        load(spec)
    assert repr(spec) in str(caught.value)
    assert "folder:DIR[?size=S]" in str(caught.value)


@pytest.mark.parametrize("spec", [None, 3, b"fashion-mnist"])
def test_load_refuses_what_is_not_text(spec):
    with pytest.raises(TypeError, match=r"^data: "):
        load(spec)


@pytest.mark.parametrize(
    "option", ["size=0", "size=-3", "size=", "size=3.5", "size=a", "size=9999999", "scale=2", "="]
)
def test_load_refuses_folder_option(tmp_path, option):
    for kind in ("folder", "shards"):
        with pytest.raises(ValueError, match=r"^data: got option") as caught:
            load(f"{kind}:{tmp_path}?{option}")
    assert repr(option) in str(caught.value)


@pytest.mark.parametrize("kind", ["fashion-mnist", "cifar10", "folder", "shards"])
@pytest.mark.parametrize("there", ["nothing", "file"])
def test_load_names_missing_directory(tmp_path, kind, there):
    path = tmp_path / "away"
    if there == "file":
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"directory: found (no|some)thing.*, expected a") as caught:
        load(f"{kind}:{path}")
    assert str(caught.value).startswith(str(path))


def test_load_expands_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for part in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(range(24))
        labels = struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([9, 0])
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(images)
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    train, test = load("fashion-mnist:~")
    assert train.image_shape == test.image_shape == (1, 3, 4)
    assert train.labels.tolist() == [9, 0]


def test_a_directory_is_specified_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "idx", "pictures", "fashion-mnist", "with:colon"):
        (tmp_path / name).mkdir()
    (tmp_path / "cifar10/data_batch_1.bin").write_bytes(b"")
    (tmp_path / "idx/train-images-idx3-ubyte.gz").write_bytes(b"")
    for source, expected in {
        "cifar10": "cifar10:cifar10",
        "idx": "fashion-mnist:idx",
        "pictures": "folder:pictures",
        "with:colon": "folder:with:colon",
        "fashion-mnist": "fashion-mnist",
        "cifar10:idx": "cifar10:idx",
        "nothing": "nothing",
    }.items():
        assert find_spec(source) == expected
