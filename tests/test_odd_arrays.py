"""Every public function that takes arrays, given arrays of every odd kind.

What has the right numbers may lie in memory anyhow. Everything else gives what the same numbers in
a plain array give, or an error that names the argument, before anything is written.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.data import Dataset, Loader, Normalizer, change_image
from lowerconv.train import Classifier, Trainer
from lowerconv.train.checkpoint import Checkpoint, save_checkpoint, state
from tests.array_targets import TARGETS, bytes_, floats


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    inputs = {
        "image_shape": [3, 2, 2],
        "stored_size": [2, 2],
        "classes": ["a", "b"],
        "mean": [0.5, 0.5, 0.5],
        "deviation": [0.2, 0.2, 0.2],
    }
    settings = {"model": "mine", "algorithm": "auto", "ema": None}
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    about = {"settings": settings, "inputs": inputs, "history": []}
    save_checkpoint(path, Checkpoint(state(network), about))
    return Classifier(path, network)


# Layouts: the same numbers of the same type


def reversed_(good: np.ndarray) -> np.ndarray:
    return good[::-1].copy()[::-1]


def strided(good: np.ndarray) -> np.ndarray:
    wide = np.zeros((*good.shape[:-1], 2 * good.shape[-1]), good.dtype)
    wide[..., ::2] = good
    return wide[..., ::2]


def unaligned(good: np.ndarray) -> np.ndarray:
    memory = np.zeros(good.nbytes + 1, np.uint8)
    made = np.ndarray(good.shape, good.dtype, memory, 1)
    made[...] = good
    return made


def read_only(good: np.ndarray) -> np.ndarray:
    made = good.copy()
    made.flags.writeable = False
    return made


class OfUser(np.ndarray):
    """A subclass that means nothing by it."""


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negative-strides": reversed_,
    "strided": strided,
    "unaligned": unaligned,
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "recarray": lambda good: good.copy().view(np.recarray),
    "memmap": lambda good: good.copy().view(np.memmap),
    "subclass": lambda good: good.copy().view(OfUser),
}

# What a function may ask for beyond the right numbers.
REFUSES = {
    ("Dataset-images", "negative-strides"),  # "C-contiguous"
    ("Dataset-images", "strided"),
    ("Dataset-images", "fortran"),
    ("conv2d-out", "read-only"),
    ("plan-out", "read-only"),
}


def plain(result: Any) -> list[np.ndarray]:
    return [np.asarray(part) for part in (result if isinstance(result, list) else [result])]


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(plain(found), plain(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)


def assert_named(error: BaseException, argument: str | None) -> None:
    """The message names the argument; None: the one at fault or another that does not fit it."""
    message = str(error)
    if argument is None:
        assert re.search(r"(^|\W)\w+'?(\[\d+\])?: (got|found) ", message), message
        return
    assert re.search(rf"(^|\W){re.escape(argument)}(\[\d+\])?: (got|found) ", message), message


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TARGETS)
def test_numbers_lie_anyhow(name: str, layout: str) -> None:
    target = TARGETS[name]
    array = LAYOUTS[layout](target.good)
    assert array.shape == target.good.shape and array.dtype == target.good.dtype
    if (name, layout) in REFUSES:
        with pytest.raises(ValueError) as caught:
            target.call(array)
        assert_named(caught.value, target.argument)
        return
    expected = plain(target.call(target.good.copy()))
    assert_same(target.call(array), [part.copy() for part in expected])


@pytest.mark.parametrize("name", [n for n in TARGETS if "out" not in n and n != "Dataset-images"])
def test_numbers_without_memory_of_their_own(name: str) -> None:
    target = TARGETS[name]
    zeros = np.zeros((), target.good.dtype)
    expected = target.call(np.broadcast_to(zeros, target.good.shape).copy())
    expected = [part.copy() for part in plain(expected)]
    assert_same(target.call(np.broadcast_to(zeros, target.good.shape)), expected)


# Other types, and what is no array


KINDS = ("?", "b", "B", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g", "F", "D")
KINDS += ("O", "U3", "S3", "M8[s]", "m8[s]", "V4")
TYPES = list(dict.fromkeys(np.dtype(kind) for kind in KINDS))
TYPES += [dtype.newbyteorder() for dtype in TYPES if dtype.newbyteorder() != dtype]
TYPES.append(np.dtype([("a", "f4"), ("b", "i4")]))


def converted(good: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "mMV":
        return np.zeros(good.shape, dtype)
    return good.astype(dtype)


@pytest.mark.parametrize("name", TARGETS)
def test_numbers_of_other_types(name: str) -> None:
    for dtype in TYPES:
        print(dtype)  # of a failed test the last one is at fault
        check_type(name, dtype)


def check_type(name: str, dtype: np.dtype) -> None:
    target = TARGETS[name]
    array = converted(target.good, dtype)
    before = [part.copy() for part in (*target.written, array)]
    try:
        found = [part.copy() for part in plain(target.call(array))]
    except (TypeError, ValueError) as error:
        assert dtype != target.good.dtype
        # Of a type that is taken as well, the others are the odd ones.
        taken = dtype == np.float64 or (dtype == np.float16 and name.startswith("conv2d"))
        assert_named(error, None if taken else target.argument)
        for part, kept in zip((*target.written, array), before, strict=True):
            assert part.tobytes() == kept.tobytes()
        return
    for one, other in zip(found, plain(target.call(target.good.copy())), strict=True):
        np.testing.assert_allclose(one, other, 1e-5, 1e-5)  # in float64 where that was given


class Fake:
    """Looks like an array to those who only ask for what they need."""

    def __init__(self, good: np.ndarray) -> None:
        self._good = good
        self.dtype, self.shape, self.ndim = good.dtype, good.shape, good.ndim

    def __len__(self) -> int:
        return len(self._good)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_good"], name)


def tensor(good: np.ndarray) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(good.copy())


def frame(good: np.ndarray) -> Any:
    pandas = pytest.importorskip("pandas")
    if good.ndim > 2:
        pytest.skip("a frame of pandas has two dimensions")
    return pandas.DataFrame(good) if good.ndim == 2 else pandas.Series(good)


OTHERS: dict[str, Callable[[np.ndarray], Any]] = {
    "none": lambda good: None,
    "list": lambda good: good.tolist(),
    "tuple": lambda good: tuple(good.tolist()),
    "number": lambda good: 1.5,
    "integer": lambda good: 1,
    "bool": lambda good: True,
    "text": lambda good: "ones",
    "bytes": lambda good: good.tobytes(),
    "dict": lambda good: dict(enumerate(good)),
    "memoryview": lambda good: memoryview(good),
    "scalar": lambda good: good.reshape(-1)[0],
    "like-an-array": Fake,
    "tensor": tensor,
    "pandas": frame,
    "0-d": lambda good: good.reshape(-1)[0:1].reshape(()),
    "empty": lambda good: good[:0],
    "one-more": lambda good: np.concatenate([good, good[:1]]),
    "a-dimension-more": lambda good: good[..., np.newaxis],
    "a-dimension-less": lambda good: good[0],
    "masked": lambda good: np.ma.array(good, mask=np.arange(good.size).reshape(good.shape) == 1),
    "masked-nowhere": np.ma.array,
}
# These hold the right numbers.
PLAIN = ("list", "tuple", "tensor", "pandas", "like-an-array", "memoryview")
SHAPES = ("empty", "one-more", "a-dimension-less", "a-dimension-more", "0-d")


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of PyTorch
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", TARGETS)
def test_what_is_no_such_array(name: str, kind: str) -> None:
    target = TARGETS[name]
    if (name, kind) in {("conv2d-out", "none"), ("conv2d-bias", "none"), ("SGD", "none")}:
        pytest.skip("stands for none")
    if kind == "none" and name in ("Adam", "LARS"):
        pytest.skip("stands for none")
    value = OTHERS[kind](target.good.copy())
    before = [part.copy() for part in target.written]
    try:
        found = target.call(value)
    except (TypeError, ValueError) as error:
        assert_named(error, None if kind in SHAPES else target.argument)
        if kind.startswith("masked"):
            assert isinstance(error, TypeError) and "masked" in str(error)
        for part, kept in zip(target.written, before, strict=True):
            assert part.tobytes() == kept.tobytes()
        return
    assert not kind.startswith("masked")
    if kind in PLAIN:
        assert_same(found, target.call(target.good.copy()))
    elif kind in ("integer", "scalar"):
        assert name == "change_image-cast"
    else:  # other numbers of images, samples or labels may be fine: then each counts
        assert kind in SHAPES, found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_to_classify_lie_anyhow(classifier: Classifier, layout: str) -> None:
    images = bytes_(5, 3, 2, 2)
    expected = classifier.probabilities(images)
    np.testing.assert_allclose(classifier.probabilities(LAYOUTS[layout](images)), expected)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_image_is_not_classified(classifier: Classifier, kind: str) -> None:
    images = bytes_(5, 3, 2, 2)
    value = OTHERS[kind](images)
    if kind in ("empty", "one-more"):
        assert classifier.probabilities(value).shape == (len(value), 2)
        return
    with pytest.raises((TypeError, ValueError), match=r"^images: got "):
        classifier.probabilities(value)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_images_of_other_types_are_not_classified(classifier: Classifier, dtype: np.dtype) -> None:
    if dtype == np.uint8:
        return
    with pytest.raises((TypeError, ValueError), match=r"^images: got "):
        classifier.probabilities(converted(bytes_(5, 3, 2, 2), dtype))


# Labels


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([0, -1, 1]), ValueError, "got -1 to 1, expected 0 to 3"),
        (np.array([0, 4, 1]), ValueError, "got 0 to 4, expected 0 to 3"),
        (np.array([0, 2**63 + 1, 1], np.uint64), ValueError, "got 0 to 9223372036854775809"),
        (np.array([0, 255, 1], np.uint8), ValueError, "got 0 to 255, expected 0 to 3"),
        (np.array([0, np.nan, 1]), TypeError, "got dtype float64, expected integers"),
        (np.array([True, False, True]), TypeError, "got dtype bool, expected integers"),
        (np.array([0, 1]), ValueError, r"got shape \(2,\), expected \(3,\), one for each row"),
        (np.array([[0], [1], [2]]), ValueError, r"got shape \(3, 1\), expected \(3,\)"),
        (np.eye(3, 4, dtype=int), ValueError, r"got shape \(3, 4\), expected \(3,\)"),
        (np.array(["cat", "dog", "cat"]), TypeError, "got dtype <U3, expected integers"),
    ],
    ids=str,
)
def test_labels_that_are_none(labels: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^labels: {message}"):
        nn.softmax_cross_entropy(floats(3, 4), labels)


@pytest.mark.parametrize("batch", [0, -1, 2.0, True])
def test_a_batch_of_no_samples(batch: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^batch: got "):
        nn.softmax_cross_entropy(floats(3, 4), np.zeros(3, int), batch)


@pytest.mark.parametrize("indices", [[5], [-1], [0, 2**40]])
def test_images_that_are_not_there(indices: list[int]) -> None:
    images = bytes_(5, 3, 4, 6)
    with pytest.raises(ValueError, match=r"^indices: got .*, expected 0 to 4"):
        Normalizer(images)(images, np.array(indices))


@pytest.mark.parametrize(("begin", "end"), [(0, 9), (-1, 4), (5, 3), (0, 2**70), (0.0, 8)])
def test_a_range_beyond_the_parameters(begin: Any, end: Any) -> None:
    optimizer = nn.SGD(nn.Linear(3, 2), 0.1)
    before = optimizer.data.copy()
    with pytest.raises((TypeError, ValueError), match=r"^(begin|end): got "):
        optimizer.update(begin, end)
    assert np.array_equal(optimizer.data, before)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"angle": "20"}, "angle"),
        ({"angle": np.nan}, "angle"),
        ({"angle": np.ones(2)}, "angle"),
        ({"flip": 0.5}, "flip"),
        ({"flip": True}, "flip"),
        ({"cast": 1.5}, "cast"),
        ({"cast": (1, 2)}, "cast"),
        ({"cast": 10**6}, "cast"),
        ({"shape": (0, 3)}, "shape"),
        ({"shape": (2.5, 3)}, "shape"),
    ],
    ids=str,
)
def test_changes_that_are_none(changes: dict[str, Any], named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{named}: got "):
        change_image(bytes_(3, 4, 4), **changes)


@pytest.mark.parametrize("x_shape", [(2, 8.9), (2, True), (2, "8"), 16, None, (-2, 8), np.eye(2)])
def test_shapes_that_are_none(x_shape: Any) -> None:
    net = nn.Linear(8, 2)
    for take in (net.compile, net.memory_report):
        with pytest.raises((TypeError, ValueError), match=r"^x_shape: got "):
            take(x_shape)


# Data sets


def toy(classes: tuple[str, ...] = ("a", "b"), side: int = 2) -> Dataset:
    return Dataset("toy", bytes_(5, 3, side, side), np.array([0, 1, 0, 1, 1]), classes)


def test_arrays_are_no_data_sets(classifier: Classifier, tmp_path) -> None:
    arrays = bytes_(5, 3, 2, 2), np.zeros(5, np.int64)
    for value in (arrays[0], arrays, None, "shards", arrays[0].tolist()):
        with pytest.raises(TypeError, match=r"^dataset: got "):
            classifier.evaluate(value)
        with pytest.raises(TypeError, match=r"^dataset: got "):
            Loader(value, Normalizer(arrays[0]), 4)
    for value in (arrays, (toy(), arrays[0]), (toy(),), toy(), None, 3, (arrays[0], None)):
        with pytest.raises(TypeError, match=r"^data(\[[01]\])?: got "):
            Trainer("lenet", value, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("other", [toy(("b", "a")), toy(side=3)], ids=["classes", "image_shape"])
def test_a_test_set_of_other_images(other: Dataset, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"^data\[1\]: got (classes|image_shape) .* of data\[0\]"):
        Trainer("lenet", (toy(), other), tmp_path / "run")
    assert not list(tmp_path.iterdir())
