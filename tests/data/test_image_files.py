"""Images as files: what of each becomes a picture, and files that are damaged."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import DataError, Dataset, pack, read_folder
from lowerconv.data.folder import read_image
from tests.data.test_folder import noise, paint


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
