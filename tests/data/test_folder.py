"""Class folders of images: layouts, decoding and damaged files."""

import io
import random
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import DataError, Dataset, DataWarning, load, pack, read_folder
from lowerconv.data.folder import read_image


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


def decode(tmp_path, image_bytes, name="image.png", size=4):
    """Read one image file through the reader, as an array (3, size, size)."""
    folder = tmp_path / "train/only"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(image_bytes)
    paint(tmp_path / "test/only/1.png")
    train, _ = read_folder(tmp_path, size=size)
    return train.images[0].astype(int)  # so that differences do not wrap around


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


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


def test_centre_of_the_longer_side(tmp_path):
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, 3:7] = noise((4, 4))
    result = decode(tmp_path, encode(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(result, pixels[:, 3:7].transpose(2, 0, 1))
    result = decode(tmp_path, encode(Image.fromarray(pixels.transpose(1, 0, 2)), "PNG"))
    np.testing.assert_array_equal(result, pixels[:, 3:7].transpose(2, 1, 0))


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (41, 67)], ids=str)
@pytest.mark.parametrize("shape", [(3, 10, 20), (1, 7, 5), (1, 28, 28)], ids=str)
def test_any_shape_shows_the_centre(tmp_path, size, shape):
    """The middle fifth is white; what is cut off leaves it there."""
    width, height = size
    image = Image.new("RGB", size, (0, 0, 255))
    middle = (width * 2 // 5, height * 2 // 5, width * 3 // 5, height * 3 // 5)
    image.paste((255, 255, 255), middle)
    image.save(tmp_path / "image.png")
    found = read_image(tmp_path / "image.png", shape)
    assert found.shape == shape
    assert found.dtype == np.uint8
    _, H, W = shape
    assert (found[:, H // 2, W // 2] > 150).all()
    assert found[0, 0, 0] < 40  # blue is dark in grey too


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (41, 67), (31, 30)], ids=str)
@pytest.mark.parametrize("shape", [(3, 10, 20), (1, 7, 5), (3, 16, 16)], ids=str)
@pytest.mark.parametrize("longest", [1, 20, 25, 1000])
def test_more_of_the_image_leaves_the_middle_as_it_is(tmp_path, size, shape, longest):
    noise(size).save(tmp_path / "image.png")
    middle = read_image(tmp_path / "image.png", shape)
    found = read_image(tmp_path / "image.png", shape, longest)
    for side, least in zip(found.shape[1:], shape[1:], strict=True):
        assert least <= side <= max(least, longest)
        assert (side - least) % 2 == 0
    assert found.shape[1:] == middle.shape[1:] or longest > min(shape[1:])
    top, left = (
        (side - least) // 2 for side, least in zip(found.shape[1:], shape[1:], strict=True)
    )
    part = found[:, top : top + shape[1], left : left + shape[2]]
    np.testing.assert_allclose(part.astype(int), middle, atol=1)


def test_other_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^shape: got 2 channels"):
        read_image(tmp_path / "image.png", (2, 8, 8))


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    result = decode(tmp_path, encode(Image.fromarray(stripes), "PNG"))
    assert result.min() >= 95 and result.max() <= 105


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)], ids=str)
def test_slivers_and_single_pixels_grow(tmp_path, shape):
    result = decode(tmp_path, encode(Image.new("RGB", shape, (1, 2, 3)), "PNG"), size=16)
    assert (result == np.array([1, 2, 3]).reshape(3, 1, 1)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation(tmp_path, form, orientation):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, :3] = pixels[1, 0] = 255  # looks different in all eight positions
    stored = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(pixels, -1),
    }[orientation]
    # A block of 8 x 8 pixels for each, as JPEG codes them.
    image = Image.fromarray(np.ascontiguousarray(stored)).resize((32, 32), Image.Resampling.NEAREST)
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decode(tmp_path, encode(image, form, exif=exif), f"image.{form.lower()}", size=32)
    np.testing.assert_allclose(result[:, 4::8, 4::8], pixels.transpose(2, 0, 1), atol=3)


def test_large_jpeg_is_close_to_the_whole_computation(tmp_path):
    """Decoding at a part of the size changes the result by little."""
    y, x = np.mgrid[:600, :900]
    planes = [127 + 120 * np.sin(x / 90 + i) * np.cos(y / 70 - i) for i in range(3)]
    image = Image.fromarray(np.stack(planes, axis=2).astype(np.uint8))
    result = decode(tmp_path, encode(image, "JPEG", quality=95), "large.jpg", size=32)
    box = (150, 0, 750, 600)
    whole = image.resize((32, 32), Image.Resampling.BILINEAR, box=box)
    np.testing.assert_allclose(result, np.asarray(whole).transpose(2, 0, 1), atol=6)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (77, 77, 77)),
        ("P", 3, (3, 3, 3)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("I;16", 0x4A00, (0x4A, 0x4A, 0x4A)),
    ],
)
def test_modes_become_rgb(tmp_path, mode, colour, expected):
    image = Image.new(mode, (4, 4), colour)
    if mode == "P":
        image.putpalette([i // 3 for i in range(768)])
    result = decode(tmp_path, encode(image, "PNG"))
    assert (result == np.array(expected).reshape(3, 1, 1)).all()


def tiff(pixels, bits, photometric):
    """Write a row of grey pixels as TIFF, which Pillow cannot in all of these ways."""
    data = int("".join(f"{pixel:0{bits}b}" for pixel in pixels), 2).to_bytes(
        len(pixels) * bits // 8, "big"
    )
    if bits == 16:
        data = np.array(pixels, "<u2").tobytes()
    entries = {256: len(pixels), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1}
    entries |= {278: 1, 279: len(data)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in entries.items())
    header = struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data
    return header + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize(
    ("bits", "photometric", "stored"),
    [
        (16, 1, [0, 0x1234, 0x8000, 0xFFFF]),
        (16, 0, [0xFFFF, 0xEDCB, 0x7FFF, 0]),  # white is zero
        (12, 1, [0, 0x123, 0x800, 0xFFF]),
    ],
)
def test_grey_of_many_bits(tmp_path, bits, photometric, stored):
    (tmp_path / "image.tif").write_bytes(tiff(stored, bits, photometric))
    found = read_image(tmp_path / "image.tif", (3, 1, 4))
    assert found[0, 0].tolist() == [0, 0x12, 0x80, 0xFF]


def exif(*entries):
    """Return an EXIF block of (tag, type, count, packed value)."""
    header = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    directory, behind = b"", b""
    for tag, kind, count, value in entries:
        if len(value) > 4:
            at = 8 + 2 + 12 * len(entries) + 4 + len(behind)
            value, behind = struct.pack("<I", at), behind + value
        directory += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return header + directory + bytes(4) + behind


SIX = struct.pack("<H", 6)  # a quarter turn
# What cannot be read may stand beside an orientation that can.
ODD_EXIF = {
    "text": (b"not exif", False),
    "nothing": (b"Exif\0\0", False),
    "cut-off": (exif((0x0112, 3, 1, SIX))[:17], False),
    "no-resolution": (exif((0x0112, 3, 1, SIX), (0x011A, 10, 1, struct.pack("<ii", -1, 0))), True),
    "far-directory": (exif((0x0112, 3, 1, SIX), (0x8769, 4, 1, b"\xff" * 4)), True),
    "text-for-directory": (exif((0x0112, 3, 1, SIX), (0x8825, 2, 4, b"abc")), True),
    "endless-list": (exif((0x0112, 3, 1, SIX), (0x9286, 7, 2**31, b"abcd")), True),
    "orientation-text": (exif((0x0112, 2, 2, b"6")), False),
    "orientation-rational": (exif((0x0112, 5, 1, struct.pack("<II", 6, 1))), True),
    "orientation-no-number": (exif((0x0112, 5, 1, struct.pack("<II", 6, 0))), False),
    "orientation-float": (exif((0x0112, 11, 1, struct.pack("<f", 6))), True),
    "orientation-0": (exif((0x0112, 3, 1, b"\0\0")), False),
    "orientation-9": (exif((0x0112, 3, 1, b"\x09\0")), False),
    "orientation-negative": (exif((0x0112, 8, 1, struct.pack("<h", -6))), False),
}


@pytest.mark.parametrize("name", ODD_EXIF)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore")  # Pillow tells of damage
def test_damaged_exif_leaves_the_image_whole(tmp_path, form, name):
    block, turned = ODD_EXIF[name]
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8, :24] = 255
    options = {"lossless": True} if form == "WEBP" else {}
    data = encode(Image.fromarray(pixels), form, exif=block, **options)
    result = decode(tmp_path, data, f"image.{form.lower()}", size=32)
    expected = np.rot90(pixels, -1) if turned else pixels
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=40)  # JPEG has edges


@pytest.mark.filterwarnings("ignore")
def test_random_exif_leaves_the_image_whole(tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for form in ("JPEG", "PNG", "WEBP"):
        for _ in range(60):
            block = bytearray(ODD_EXIF[rng.choice(list(ODD_EXIF))][0])
            for _ in range(rng.choice((1, 3, 10))):
                block[rng.randrange(len(block))] = rng.randrange(256)
            data = encode(noise(), form, exif=bytes(block) + rng.randbytes(rng.choice((0, 9))))
            assert decode(tmp_path, data, f"image.{form.lower()}").shape == (3, 4, 4)


def test_damaged_notes_of_a_tiff_leave_the_image_whole(tmp_path):
    """Pillow reads these directories when it loads a TIFF."""
    pixels = np.asarray(noise((4, 4)))
    odd = [(0x8769, 4, 0xFFFFFF00), (0x8769, 9, 0xFFFFFFFF), (0x8825, 9, 0xFFFFFFFF)]
    odd += [(700, 8, 7), (700, 2, 0x41414141)]  # XMP that is no text
    for tag, kind, value in odd:
        notes = Image.Exif()
        notes[0x0112] = 6
        notes[0x0131] = "a" * 40
        data = bytearray(encode(Image.fromarray(pixels), "TIFF", exif=notes))
        at = data.index(struct.pack("<HH", 0x0131, 2))
        data[at : at + 12] = struct.pack("<HHII", tag, kind, 1, value)
        result = decode(tmp_path, bytes(data), "image.tiff")
        np.testing.assert_array_equal(result, np.rot90(pixels, -1).transpose(2, 0, 1))


def test_palette_with_alpha_gives_no_warning(tmp_path):
    image = Image.new("P", (4, 4), 3)
    image.putpalette([i // 3 for i in range(768)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = decode(tmp_path, encode(image, "PNG", transparency=bytes(range(256))))
    assert (result == 3).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), (grey,) * 3) for grey in (50, 150)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(tmp_path, data, "image.gif") == 50).all()


# Files that are wrong


def empty_png(width, height):
    """A PNG file that claims a size and holds no pixels."""
    data = b"\x89PNG\r\n\x1a\n"
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
    ):
        data += struct.pack(">I", len(content)) + kind + content
        data += struct.pack(">I", zlib.crc32(kind + content))
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "cannot identify", id="empty"),
        pytest.param(b"hello", "cannot identify", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot id", id="eps"),
        pytest.param(encode(noise((64, 64)), "PNG")[:400], "truncated", id="png-truncated"),
        pytest.param(encode(noise((64, 64)), "JPEG")[:900], "truncated", id="jpeg-truncated"),
        pytest.param(encode(Image.new("F", (4, 4)), "TIFF"), "pixels of mode F", id="float-tiff"),
        pytest.param(empty_png(60_000, 60_000), "decompression bomb", id="bomb"),
        pytest.param(empty_png(0, 8), "(image|pixels)", id="no-pixels"),
    ],
)
def test_unreadable_image(tmp_path, data, reason):
    with pytest.raises(DataError, match=f"image.png: image: found .*{reason}.*a complete image"):
        decode(tmp_path, data)


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_pixels_just_above_the_limit_of_pillow(tmp_path, monkeypatch, action):
    """Pillow only warns here."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        with pytest.raises(DataError, match=r"image\.png: image: found .*limit of 100") as caught:
            decode(tmp_path, encode(noise((12, 12)), "PNG"))
    assert "LOWERCONV_MAX_IMAGE_PIXELS" in str(caught.value)
    assert "PIL.Image.MAX_IMAGE_PIXELS" in str(caught.value)


@pytest.mark.parametrize("size", [(12, 12), (30, 30)], ids=str)  # Pillow warns, Pillow raises
@pytest.mark.filterwarnings("ignore")
def test_large_images_can_be_allowed(tmp_path, monkeypatch, size):
    """The library's users have Pillow's own variable, those of the command the environment."""
    data = encode(noise(size), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="LOWERCONV_MAX_IMAGE_PIXELS"):
        decode(tmp_path, data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    decode(tmp_path, data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode(tmp_path, data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setenv("LOWERCONV_MAX_IMAGE_PIXELS", "900")
    decode(tmp_path, data)
    packed = pack(f"folder:{tmp_path}", tmp_path.parent / f"{tmp_path.name}-shards", size=8)
    assert packed.images == 2


@pytest.mark.parametrize("text", ["many", "0", "-3", "1e9", "9.5"])
def test_a_limit_that_is_none_is_named(tmp_path, monkeypatch, text):
    monkeypatch.setenv("LOWERCONV_MAX_IMAGE_PIXELS", text)
    with pytest.raises(ValueError, match=f"^LOWERCONV_MAX_IMAGE_PIXELS: got '{text}', expected"):
        decode(tmp_path, encode(noise(), "PNG"))


def test_error_among_many_files(tmp_path):
    for i in range(30):
        paint(tmp_path / f"a/{i:02}.png")
    (tmp_path / "a/17.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"17\.png: image: found cannot identify"):
        read_folder(tmp_path)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage before it gives up
def test_damage_gives_an_error_or_a_dataset(tmp_path, form):
    seed = 20240612
    print(f"seed {seed}")
    rng = random.Random(seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(noise((24, 20)), form, **({} if form in ("BMP", "GIF") else {"exif": exif}))
    paint(tmp_path / "test/a/1.png")
    path = tmp_path / f"train/a/image.{form.lower()}"
    path.parent.mkdir(parents=True)
    for _ in range(60):
        data = bytearray(whole)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        else:
            # Headers are where damage does most.
            data[rng.randrange(min(len(data), rng.choice((64, 256, 4096))))] = rng.randrange(256)
        path.write_bytes(data)
        try:
            train, _ = read_folder(tmp_path, size=8)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert isinstance(train, Dataset) and train.images.shape == (1, 3, 8, 8)
