"""Augmentation: against formulas in plain numpy, exact without interpolation, repeatable."""

import numpy as np
import pytest

from lowerconv.data import change_image
from lowerconv.data.transform import identity, transform


def picture(channels=3, height=19, width=23, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)


def reference(image, shape, cast=0, **change):
    """The same changes in float64, one formula after another for the whole image."""
    _, height, width = image.shape
    rows, columns = shape
    do = {"step_y": 1, "step_x": 1, "flip": 0, "angle": 0, "lens": 0, "radius": 0, "dark": 0}
    do |= {"top": (height - rows) // 2, "left": (width - columns) // 2} | change

    many = [min(max(int(np.ceil(do[f"step_{axis}"] - 1e-6)), 1), 8) for axis in "yx"]
    total = 0
    for a in range(many[0]):
        for b in range(many[1]):
            i = np.arange(rows)[:, None] + (a + 0.5) / many[0] - 0.5
            j = np.arange(columns)[None] + (b + 0.5) / many[1] - 0.5
            v, u = i - (rows - 1) / 2, j - (columns - 1) / 2
            radius = np.hypot(u, v) / np.hypot(rows / 2, columns / 2)
            factor = (1 + do["lens"] * radius**2) / (1 + do["lens"])
            if do["flip"]:
                u = -u
            y, x = v * do["step_y"] * factor, u * do["step_x"] * factor
            angle = np.deg2rad(do["angle"])
            x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
            y = y + do["top"] + do["step_y"] * rows / 2 - 0.5
            x = x + do["left"] + do["step_x"] * columns / 2 - 0.5
            total = total + bilinear(image, mirrored(y, height), mirrored(x, width))
    values = np.clip(total / many[0] / many[1] + np.reshape(cast, (-1, 1, 1)), 0, 255)

    v, u = np.mgrid[:rows, :columns]
    radius = np.hypot(v - (rows - 1) / 2, u - (columns - 1) / 2) / np.hypot(rows / 2, columns / 2)
    darkening = np.clip((radius - do["radius"]) / (1 - do["radius"]), 0, None) ** 2
    return values * (1 - do["dark"] * darkening)


def mirrored(at, size):
    at = np.abs(at)
    at = np.where(at > size - 1, 2 * (size - 1) - at, at)
    return np.clip(at, 0, size - 1)


def bilinear(image, y, x):
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom = np.minimum(top + 1, image.shape[1] - 1)
    right = np.minimum(left + 1, image.shape[2] - 1)
    down, across = y - top, x - left
    pixels = image.astype(float)
    upper = pixels[:, top, left] * (1 - across) + pixels[:, top, right] * across
    lower = pixels[:, bottom, left] * (1 - across) + pixels[:, bottom, right] * across
    return upper * (1 - down) + lower * down


def apply(image, shape, cast=0, **change):
    """The kernel's own result, in float32."""
    channels = len(image)
    changes = identity(1, np.array([image.shape[1:]]), shape)
    for name, value in change.items():
        changes[name] = value
    casts = np.broadcast_to(np.asarray(cast, np.int32), (1, channels)).copy()
    table = np.tile(np.arange(256, dtype=np.float32), (channels, 1))
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    out = np.full((1, channels, *shape), np.nan, np.float32)
    address, size = np.array([image.ctypes.data]), np.array([image.shape[1:]])
    transform(address, size, changes, casts, table, ones, zeros, out)
    return out[0]


CHANGES = {
    "nothing": {},
    "crop": {"top": 3, "left": 7},
    "crop-beyond-the-border": {"top": -4, "left": 5},
    "crop-between-pixels": {"top": 1.25, "left": 2.5},
    "flip": {"flip": 1},
    "flip-and-crop": {"flip": 1, "top": 2, "left": -2},
    "cast": {"cast": (20, -20, 7)},
    "rotate": {"angle": 7},
    "rotate-back": {"angle": -33.5},
    "barrel": {"lens": 0.3},
    "pincushion": {"lens": -0.3},
    "vignette": {"dark": 0.8, "radius": 0.4},
    "vignette-everywhere": {"dark": 1, "radius": 0},
    "enlarge": {"step_y": 0.5, "step_x": 0.7, "top": 2, "left": 3},
    "shrink": {"step_y": 1.9, "step_x": 1.6, "top": 0, "left": 0},
    "shrink-much": {"step_y": 2.4, "step_x": 3.1, "top": 0, "left": 0},
    "everything": {
        "angle": 12,
        "lens": 0.2,
        "flip": 1,
        "step_y": 1.1,
        "step_x": 0.9,
        "top": 1,
        "left": -2,
        "dark": 0.5,
        "radius": 0.2,
        "cast": (-15, 3, 18),
    },
}
SHAPES = {
    "same": ((3, 19, 23), (19, 23)),
    "part": ((3, 31, 40), (16, 17)),
    "bands": ((3, 70, 90), (66, 70)),
    "wide-row": ((3, 12, 700), (9, 600)),
    "row": ((3, 1, 9), (1, 9)),
    "column": ((3, 9, 1), (9, 1)),
    "pixel": ((3, 1, 1), (1, 1)),
    "larger-than-image": ((3, 8, 5), (11, 12)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CHANGES)
def test_change_follows_its_formula(name, shape):
    stored, result = SHAPES[shape]
    image = picture(*stored, seed=len(name))
    found = apply(image, result, **CHANGES[name])
    # Places are computed in float32: their error times the step between two pixels.
    np.testing.assert_allclose(found, reference(image, result, **CHANGES[name]), atol=0.1)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9])
def test_any_number_of_channels(channels):
    image = picture(channels)
    cast = tuple(range(channels))
    for change in ({"angle": 9, "dark": 0.4}, {"top": 1, "left": 1}):
        found = apply(image, (15, 16), cast, **change)
        np.testing.assert_allclose(found, reference(image, (15, 16), cast, **change), atol=0.1)


def test_random_changes_follow_the_formula():
    seed = 20250731
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    for _ in range(60):
        height, width, rows, columns = rng.integers(1, 60, 4)
        image = picture(3, height, width, seed=int(rng.integers(1000)))
        change = {
            "top": rng.uniform(-5, 5),
            "left": rng.uniform(-5, 5),
            "step_y": rng.uniform(0.4, 2.5),
            "step_x": rng.uniform(0.4, 2.5),
            "flip": rng.integers(2),
            "angle": rng.uniform(-180, 180),
            "lens": rng.uniform(-0.4, 0.6),
            "radius": rng.uniform(0, 0.9),
            "dark": rng.uniform(0, 1),
        }
        cast = rng.integers(-40, 41, 3)
        found = apply(image, (rows, columns), cast, **change)
        np.testing.assert_allclose(
            found, reference(image, (rows, columns), cast, **change), atol=0.2
        )


# Exact where only whole pixels move


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 5, 9), (3, 33, 34), (3, 1, 7)], ids=str)
def test_identity_and_flip(shape):
    image = picture(*shape)
    np.testing.assert_array_equal(change_image(image), image)
    flipped = change_image(image, flip=1)
    np.testing.assert_array_equal(flipped, image[..., ::-1])
    np.testing.assert_array_equal(change_image(flipped, flip=1), image)


@pytest.mark.parametrize("size", [7, 8, 33])
@pytest.mark.parametrize("quarter", range(-4, 5))
def test_quarter_turns(size, quarter):
    image = picture(3, size, size)
    expected = np.rot90(image, quarter, (1, 2))
    np.testing.assert_array_equal(apply(image, (size, size), angle=90 * quarter), expected)


def test_half_turn_of_any_shape():
    image = picture(3, 9, 14)
    np.testing.assert_array_equal(change_image(image, angle=180), image[:, ::-1, ::-1])
    flipped = change_image(change_image(image, angle=180), flip=1)
    np.testing.assert_array_equal(flipped, image[:, ::-1])


def test_turning_there_and_back_returns_the_middle():
    y, x = np.mgrid[:64, :64]
    image = np.stack([127 + 100 * np.sin(x / 9 + c) * np.cos(y / 11) for c in range(3)])
    image = image.astype(np.uint8)
    back = change_image(change_image(image, angle=20), angle=-20)
    middle = slice(12, 52)
    np.testing.assert_allclose(
        back[:, middle, middle].astype(int), image[:, middle, middle].astype(int), atol=4
    )


def test_crop_mirrors_at_the_border():
    image = picture(3, 6, 7)
    padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode="reflect")
    for top in range(-3, 4):
        for left in range(-3, 4):
            expected = padded[:, top + 3 : top + 9, left + 3 : left + 10]
            np.testing.assert_array_equal(change_image(image, top=top, left=left), expected)


def test_cast_stays_within_bytes():
    image = picture()
    found = change_image(image, cast=(200, -200, 0)).astype(int)
    np.testing.assert_array_equal(found[0], np.minimum(image[0].astype(int) + 200, 255))
    np.testing.assert_array_equal(found[1], np.maximum(image[1].astype(int) - 200, 0))
    np.testing.assert_array_equal(found[2], image[2])


def test_shrinking_reads_every_pixel():
    stripes = np.zeros((1, 16, 64), np.uint8)
    stripes[..., ::2] = 200
    found = apply(stripes, (8, 32), step_y=2, step_x=2, top=0, left=0)
    np.testing.assert_allclose(found, 100, atol=1e-3)


def test_lens_keeps_corners_and_enlarges_the_middle():
    y, x = np.mgrid[:65, :65].astype(float)
    image = np.stack([3 * x, 3 * y]).astype(np.uint8)
    barrel, pincushion = (apply(image, (65, 65), lens=lens) for lens in (0.4, -0.3))
    slope = barrel[0, 32, 40] - barrel[0, 32, 24]
    assert slope < 3 * 16 / 1.2  # less of the image on as many pixels
    assert pincushion[0, 32, 40] - pincushion[0, 32, 24] > 3 * 16 * 1.2
    for result in (barrel, pincushion):
        np.testing.assert_allclose(result[:, 0, 0], 0, atol=3)
        np.testing.assert_allclose(result[:, 64, 64], 192, atol=3)


def test_values_are_normalised_alike_with_and_without_interpolation():
    image = picture(3, 12, 12)
    scale, shift = np.array([2, 0.5, 1], np.float32), np.array([-1, 3, 0.25], np.float32)
    table = (np.arange(256) * scale[:, None] + shift[:, None]).astype(np.float32)
    results = []
    for dark in (0, 1e-30):  # which is nothing, and takes the long way
        changes = identity(1, np.array([[12, 12]]), (12, 12))
        changes["dark"] = dark
        out = np.empty((1, 3, 12, 12), np.float32)
        address, size = np.array([image.ctypes.data]), np.array([[12, 12]])
        transform(address, size, changes, np.zeros((1, 3), np.int32), table, scale, shift, out)
        results.append(out)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6, atol=1e-5)


# What is drawn


# What users write


# What is documented
