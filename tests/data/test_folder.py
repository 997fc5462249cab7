"""Class folders of images: layouts, decoding and damaged files."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import DataError, DataWarning, load, read_folder


def paint(path, value=0, size=(8, 8)):
    """Write an image of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)


def values(dataset):
    """The grey value of each image of one colour."""
    assert (dataset.images == dataset.images[:, :1, :1, :1]).all()
    return dataset.images[:, 0, 0, 0].tolist()


@pytest.fixture
def split(tmp_path):
    """The layout with train and test: classes a and b, grey values that tell the files apart."""
    paint(tmp_path / "train/a/1.png", 11)
    paint(tmp_path / "train/a/2.png", 12)
    paint(tmp_path / "train/b/1.png", 21)
    paint(tmp_path / "test/a/1.png", 31)
    paint(tmp_path / "test/b/1.png", 41)
    paint(tmp_path / "test/b/2.png", 42)
    return tmp_path


def noise(size=(8, 8), seed=5):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))


# Layouts


def test_train_and_test_folders(split):
    train, test = load(f"folder:{split}?size=4")
    assert train.image_shape == test.image_shape == (3, 4, 4)
    assert train.classes == test.classes == ("a", "b")
    assert train.name == split.name
    assert values(train) == [11, 12, 21] and train.labels.tolist() == [0, 0, 1]
    assert values(test) == [31, 41, 42] and test.labels.tolist() == [0, 1, 1]
    assert train.images.flags.writeable


def test_size_is_32_by_default(split):
    assert load(f"folder:{split}")[0].image_shape == (3, 32, 32)


def test_question_mark_in_a_name_is_no_option(tmp_path):
    folder = tmp_path / "what?"
    for i in range(5):
        paint(folder / f"x/{i}.png", i)
    assert len(load(f"folder:{folder}")[0]) == 4
    assert load(f"folder:{folder}?size=3")[0].image_shape == (3, 3, 3)


def test_every_fifth_image_of_each_class_is_for_testing(tmp_path):
    for i in range(12):
        paint(tmp_path / f"cat/{i:02}.png", i)
    for i in range(5):
        paint(tmp_path / f"ant/{i}.png", 100 + i)
    paint(tmp_path / "bee/1.png", 200)
    with pytest.warns(DataWarning, match=r": class folders with too few .* \(1: bee\)$"):
        train, test = read_folder(tmp_path, size=2)
    assert train.classes == test.classes == ("ant", "bee", "cat")
    assert values(test) == [104, 4, 9] and test.labels.tolist() == [0, 2, 2]
    assert values(train) == [100, 101, 102, 103, 200, 0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    assert train.labels.tolist() == [0] * 4 + [1] + [2] * 10


def test_one_class_is_fine(tmp_path):
    for i in range(5):
        paint(tmp_path / f"only/{i}.png", i)
    train, test = read_folder(tmp_path)
    assert train.classes == ("only",) and (len(train), len(test)) == (4, 1)


def test_train_and_test_with_images_are_classes(tmp_path):
    for vehicle in ("bus", "train", "test"):
        for i in range(5):
            paint(tmp_path / vehicle / f"{i}.png", i)
    assert read_folder(tmp_path)[0].classes == ("bus", "test", "train")


def test_extensions_and_hidden_files(split):
    for i, extension in enumerate(("JPG", "jpeg", "bmp", "gif", "WebP", "tif", "TIFF"), 1):
        paint(split / f"train/a/3{i}.{extension}", 60)
    (split / "train/a/.hidden.png").write_bytes(b"no image")
    (split / "train/a/readme.txt").write_bytes(b"no image")
    (split / "train/a/folder.png").mkdir()
    (split / "train/.cache").mkdir()
    with pytest.warns(DataWarning, match=r"other extensions \(1: train.a.readme.txt\)") as told:
        train, _ = read_folder(split)
    assert len(told) == 1 and "within class folders (1: " in str(told[0].message)
    assert train.labels.tolist() == [0] * 9 + [1]
    assert train.images[2:9].min() >= 58 and train.images[2:9].max() <= 62


def test_result_is_the_same_each_time(tmp_path):
    for i in range(40):
        path = tmp_path / f"c{i % 3}/{i}.png"
        path.parent.mkdir(exist_ok=True)
        noise((9 + i, 7), seed=i).save(path)
    for first, second in zip(read_folder(tmp_path), read_folder(tmp_path), strict=True):
        np.testing.assert_array_equal(first.images, second.images)
        np.testing.assert_array_equal(first.labels, second.labels)


# Layouts that are wrong


@pytest.mark.parametrize("size", [0, -1, 2.5, "32", True, None])
def test_refuses_size(split, size):
    with pytest.raises((TypeError, ValueError), match=f"^size: got {size!r}"):
        read_folder(split, size)


def test_folder_without_classes(tmp_path):
    paint(tmp_path / "image.png")
    with pytest.raises(DataError, match="folder: found no class folders") as caught:
        read_folder(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("part", ["train", "test"])
def test_part_without_classes(split, part):
    for file in sorted((split / part).rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    with pytest.raises(DataError, match=f"{part}: folder: found no class folders"):
        read_folder(split)


@pytest.mark.parametrize("part", ["train", "test"])
def test_part_alone(split, part):
    (split / part).rename(split / ".away")
    message = f"{part}: folder: found nothing, expected class folders as in t"
    with pytest.raises(DataError, match=message):
        read_folder(split)


def test_part_without_labels(tmp_path):
    paint(tmp_path / "train/a/1.png")
    paint(tmp_path / "test/1.png")
    with pytest.raises(DataError, match="test: folder: found images and no class folders"):
        read_folder(tmp_path)


@pytest.mark.parametrize("content", ["nothing", "text", "subfolder"])
def test_empty_class_folder(split, content):
    folder = split / "train/c"
    folder.mkdir()
    if content == "text":
        (folder / "notes.txt").write_text("no image")
    elif content == "subfolder":
        paint(folder / "deeper/1.png")
    left_out = {
        "nothing": "",
        "text": r", but files with other extensions \(1: notes\.txt\)",
        "subfolder": r", but folders within class folders \(1: deeper\)",
    }[content]
    message = rf"c: class folder: found no images{left_out}, expected files \.bmp"
    with pytest.raises(DataError, match=message):
        read_folder(split)


def link(path, target):
    """Make a symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip(f"no symbolic links here: {error}")


def test_links_to_nothing_are_counted(tmp_path):
    for i in range(110):
        name = tmp_path / f"set/{'ab'[i % 2]}/{i:03}.png"
        if i < 20:
            paint(tmp_path / f"elsewhere/{i}.png", i)
        link(name, tmp_path / f"elsewhere/{i}.png")
    with pytest.warns(DataWarning) as told:
        train, test = read_folder(tmp_path / "set")
    assert (len(train), len(test)) == (16, 4)
    (message,) = [str(warning.message) for warning in told]
    names = ", ".join(str(Path(name)) for name in ("a/020.png", "a/022.png", "a/024.png"))
    assert message == (
        f"lowerconv: {tmp_path / 'set'}: left out links to nothing (90: {names}, ...)"
    )
    link(tmp_path / "set/c/1.png", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"c: class folder: found no images, but links to nothing"):
        read_folder(tmp_path / "set")


def test_what_is_beside_the_images_is_told(split):
    paint(split / "val/a/1.png")
    with pytest.warns(DataWarning, match=r"left out folders beside train and test \(1: val\)$"):
        train, _ = read_folder(split)
    assert len(train) == 3
    for i in range(5):
        paint(split / f"all/b/{i}.png")
    paint(split / "all/stray.png")
    (split / "all/labels.csv").write_text("fine here")
    with pytest.warns(DataWarning, match=r"left out images beside .* folders \(1: stray.png\)$"):
        read_folder(split / "all")


def test_names_that_differ_in_case_only_are_told(split):
    for name in ("train/A/1.png", "test/A/1.png", "train/b/2.jpg", "train/b/2.JPG"):
        paint(split / name)
    if len(list((split / "train").iterdir())) == 2:
        pytest.skip("this file system does not tell upper from lower case")
    with pytest.warns(DataWarning) as told:
        train, _ = read_folder(split)
    assert train.classes == ("A", "a", "b")  # all are taken
    message = str(told[0].message)
    assert re.search(r"class folders with names that differ in case only \(4: ", message)
    assert re.search(r"images with names .* case only \(2: .*2\.JPG, .*2\.jpg\)", message)


def test_nothing_is_told_of_plain_folders(split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_folder(split)


@pytest.mark.parametrize(("more", "less"), [("train", "test"), ("test", "train")])
def test_classes_differ(split, more, less):
    paint(split / more / "c/1.png")
    message = f"{less}: class folders: found no c, expected the classes of {more}"
    with pytest.raises(DataError, match=message):
        read_folder(split)


def test_too_few_images_to_test_with(tmp_path):
    for name in ("a", "b"):
        for i in range(4):
            paint(tmp_path / f"{name}/{i}.png")
    with pytest.raises(DataError, match="test images: found at most 4 images in a class"):
        read_folder(tmp_path)


# Decoding


# Files that are wrong
