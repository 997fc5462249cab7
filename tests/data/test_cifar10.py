"""CIFAR-10 in its binary form."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowerconv.data import DataError, Dataset, load, read_cifar10

FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
NAMES = tuple(f"class {i}" for i in range(10))


def records(count, seed):
    """An array (count, 3073) of labels and pixels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, (count, 1), np.uint8)
    return np.concatenate([labels, rng.integers(0, 256, (count, 3072), np.uint8)], axis=1)


@pytest.fixture
def small(tmp_path):
    """A directory of six files of 1 to 6 records."""
    for count, name in enumerate(FILES, 1):
        (tmp_path / name).write_bytes(records(count, seed=count).tobytes())
    return tmp_path


def test_reads_directory(small):
    train, test = load(f"cifar10:{small}")
    expected = np.concatenate([records(count, seed=count) for count in range(1, 6)])
    assert len(train) == 15 and len(test) == 6
    assert train.name == "cifar10" and train.image_shape == (3, 32, 32)
    assert train.classes == test.classes
    assert train.classes[0] == "airplane" and train.classes[9] == "truck"
    np.testing.assert_array_equal(train.labels, expected[:, 0])
    np.testing.assert_array_equal(train.images.reshape(15, -1), expected[:, 1:])
    np.testing.assert_array_equal(test.images.reshape(6, -1), records(6, seed=6)[:, 1:])
    assert train.images.flags.writeable


def test_planes_are_red_green_blue_row_by_row(small):
    pixels = np.zeros((3, 32, 32), np.uint8)
    pixels[1, 2, 5] = 200
    record = bytearray(1 + 3072)
    record[1 + 1024 + 2 * 32 + 5] = 200
    (small / "test_batch.bin").write_bytes(record)
    _, test = read_cifar10(small)
    np.testing.assert_array_equal(test.images[0], pixels)


def test_reads_subfolder_of_the_archive(small):
    subfolder = small / "cifar-10-batches-bin"
    subfolder.mkdir()
    for name in FILES:
        (small / name).rename(subfolder / name)
    (subfolder / "batches.meta.txt").write_text("\n".join(NAMES))
    train, _ = read_cifar10(small)
    assert len(train) == 15 and train.classes == NAMES


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\n".join(NAMES) + "\n\n", id="as-published"),
        pytest.param("\r\n".join(NAMES), id="crlf"),
        pytest.param("\ufeff" + "\n".join(NAMES), id="byte-order-mark"),
    ],
)
def test_class_names_from_file(small, text):
    (small / "batches.meta.txt").write_bytes(text.encode())
    assert read_cifar10(small)[1].classes == NAMES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "lines: found 0 names, expected 10", id="empty"),
        pytest.param("\n".join(NAMES[:9]).encode(), "lines: found 9 names", id="nine"),
        pytest.param("\n".join((*NAMES, "more")).encode(), "lines: found 11 names", id="eleven"),
        pytest.param(
            "\n".join((*NAMES[:9], NAMES[2])).encode(), "name 9: found 'class 2' again", id="twice"
        ),
        pytest.param(b"\xff\xfe\x00", "file: found .*decode", id="not-utf-8"),
    ],
)
def test_refuses_class_names(small, data, message):
    (small / "batches.meta.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"batches\.meta\.txt: {message}"):
        read_cifar10(small)


@pytest.mark.parametrize("missing", FILES)
def test_missing_file(small, missing):
    (small / missing).unlink()
    with pytest.raises(DataError, match=f"files: found no {missing}, expected data_batch_1.bin, "):
        read_cifar10(small)


def test_empty_directory_names_all_files(tmp_path):
    with pytest.raises(DataError, match=rf"files: found no {', '.join(FILES)}, expected"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        pytest.param(0, "byte 0: found 0 bytes", id="empty"),
        pytest.param(3072, "byte 0: found 3072 bytes: 0 records and 3072", id="one-record-short"),
        pytest.param(3074, "byte 3073: found 3074 bytes: 1 records and 1", id="one-record-long"),
        pytest.param(3073 * 2 + 500, "byte 6146: found 6646 bytes: 2 rec", id="cut-in-a-record"),
    ],
)
@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_refuses_size(small, name, size, message):
    (small / name).write_bytes(bytes(size))
    with pytest.raises(DataError, match=f"{name}: {message}.*expected whole records of 3073"):
        read_cifar10(small)


def test_refuses_label(small):
    data = records(4, seed=9)
    data[2, 0] = 10
    (small / "data_batch_4.bin").write_bytes(data.tobytes())
    message = r"data_batch_4\.bin: record 2 \(byte 6146\): found label 10, expected 0\.\.9"
    with pytest.raises(DataError, match=message):
        read_cifar10(small)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    file=st.integers(0, 5),
    where=st.one_of(st.integers(0), st.integers(0, 5).map(lambda record: record * 3073)),
    value=st.integers(-1, 255),
)
def test_damage_gives_an_error_or_a_dataset(small, file, where, value):
    whole = records(file + 1, seed=file + 1).tobytes()
    data = bytearray(whole)
    where %= len(data)
    if value < 0:
        del data[where:]
    else:
        data[where] = value
    (small / FILES[file]).write_bytes(data)
    try:
        train, test = read_cifar10(small)
    except DataError as error:
        assert FILES[file] in str(error)
    else:
        assert isinstance(train, Dataset) and len(test) >= 1
    finally:
        (small / FILES[file]).write_bytes(whole)
