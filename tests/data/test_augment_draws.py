"""What augmentation draws, and how it is asked for."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import Augment, change_image
from lowerconv.data.augment import EFFECTS
from lowerconv.data.transform import CHANGE
from tests.data.test_augment import apply, picture, reference

EVERYTHING = "crop,zoom,flip,rotate,lens,vignette,cast"


def drawn(text, count=4000, size=(32, 32), shape=(3, 32, 32), seed=3, epoch=0):
    indices = np.arange(count)
    return Augment.parse(text).draw(seed, epoch, indices, np.tile(size, (count, 1)), shape)


def test_possible_changes_are_those_of_the_literature():
    many = 200_000
    changes, casts = drawn("rotate,lens,vignette,cast,flip", many)
    angles, lenses = np.unique(changes["angle"]), np.unique(changes["lens"])
    assert angles.tolist() == list(range(-10, 11))  # 20, and none
    assert len(lenses) == 260 + 1 and lenses[0] == -0.3 and lenses[-1] == 0.3
    dark = changes["dark"] > 0
    pairs = np.unique(np.stack([changes["dark"][dark], changes["radius"][dark]]), axis=1)
    assert pairs.shape[1] == 1960
    assert pairs[0].max() == 0.8 and 0 <= pairs[1].min() < pairs[1].max() < 1
    assert all(len(np.unique(casts[:, c])) == 41 for c in range(3))
    assert 41**3 - 1 == 68_920
    assert np.unique(changes["flip"]).tolist() == [0, 1]
    changes, _ = drawn("crop", many, (512, 512), (3, 224, 224))
    for name in ("top", "left"):
        places = np.unique(changes[name])
        assert places.tolist() == list(range(512 - 224 + 1))  # 288 steps each way: 82,944


def test_draws_are_uniform_and_independent():
    changes, casts = drawn("crop,zoom=50,flip=30,rotate=20,cast", 50_000)
    assert abs(changes["flip"].mean() - 0.3) < 0.01
    assert abs(changes["angle"].mean()) < 0.2
    assert abs(changes["step_y"].mean() - 0.75) < 0.005
    rows = np.stack([changes["flip"], changes["angle"], changes["step_y"], *casts.T])
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 0.02
    counts = np.bincount(casts[:, 0] + 20)
    assert counts.min() > 1000 and counts.max() < 1450  # 1,220 expected


def test_one_effect_more_changes_nothing_about_the_others():
    alone, _ = drawn("rotate")
    together, _ = drawn(EVERYTHING)
    np.testing.assert_array_equal(alone["angle"], together["angle"])


def test_a_draw_depends_on_seed_epoch_and_image_alone():
    augment = Augment.parse(EVERYTHING)
    sizes, shape = np.tile([40, 30], (50, 1)), (3, 24, 24)
    indices = np.random.default_rng(1).permutation(1000)[:50]
    changes, casts = augment.draw(7, 2, indices, sizes, shape)
    for i in (0, 13, 49):
        one, cast = augment.draw(7, 2, indices[i : i + 1], sizes[:1], shape)
        assert one[0] == changes[i]
        np.testing.assert_array_equal(cast[0], casts[i])
    for seed, epoch in ((8, 2), (7, 3), (2, 7)):
        other, _ = augment.draw(seed, epoch, indices, sizes, shape)
        assert (other["angle"] != changes["angle"]).sum() > 30
    huge, _ = augment.draw(2**64 + 7, 2, indices, sizes, shape)  # any integer is a seed
    assert huge.shape == (50,)


def test_boxes_lie_within_the_image_where_there_is_room():
    sizes = np.array([[50, 40], [32, 90], [32, 32], [33, 32]]).repeat(500, axis=0)
    indices = np.arange(len(sizes))
    for text, inside in (("crop", False), ("zoom", True), ("zoom,crop", True)):
        changes, _ = Augment.parse(text).draw(1, 0, indices, sizes, (3, 32, 32))
        for axis, (at, step) in enumerate((("top", "step_y"), ("left", "step_x"))):
            begin = changes[at]
            end = begin + changes[step] * 32
            room = sizes[:, axis] > 32
            ok = (begin >= 0) & (end <= sizes[:, axis] + 1e-9)
            assert ok[room].all()
            assert ok.all() == inside
            if text == "crop":  # 12 % of 32 beyond the border
                assert begin[~room].min() == -4 and end[~room].max() == 36
        assert (changes["step_y"] == changes["step_x"]).all()
        assert changes["step_y"].min() >= 0.7 if inside else (changes["step_y"] == 1).all()


def test_augment_of_one_image_is_what_a_loader_does():
    image = picture(3, 40, 44)
    augment = Augment.parse(EVERYTHING)
    once = augment(image, seed=5, epoch=1, index=17, shape=(32, 32))
    assert once.dtype == np.uint8 and once.shape == (3, 32, 32)
    np.testing.assert_array_equal(once, augment(image, 5, 1, 17, (32, 32)))
    assert (once != augment(image, 5, 1, 18, (32, 32))).any()
    changes, casts = augment.draw(5, 1, np.array([17]), np.array([[40, 44]]), (3, 32, 32))
    change = {name: changes[name][0] for name in CHANGE.names}
    np.testing.assert_allclose(once, reference(image, (32, 32), casts[0], **change), atol=0.5 + 0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("flip", {"flip": 50}),
        ("crop, flip", {"crop": 12, "flip": 50}),
        ("cast=3,rotate=180", {"cast": 3, "rotate": 180}),
        (",".join(EFFECTS), {name: amount for name, (amount, _, _) in EFFECTS.items()}),
    ],
)
def test_parse(text, expected):
    augment = Augment.parse(text)
    assert augment == Augment(**expected)
    assert Augment.parse(str(augment)) == augment


@pytest.mark.parametrize(
    "text", ["blur", "flip,flip", "flip=", "flip=a", "flip=0", "rotate=-3", "cast=3.5", "flip crop"]
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match=r"^augment: got .*, expected some of crop=12, zoom=30"):
        Augment.parse(text)


@pytest.mark.parametrize("name", EFFECTS)
def test_amounts_are_checked(name):
    most = EFFECTS[name][2]
    Augment(**{name: most})
    with pytest.raises(ValueError, match=f"^{name}: got {most + 1}, expected at most {most}"):
        Augment(**{name: most + 1})
    with pytest.raises(ValueError, match=f"^{name}: got -1"):
        Augment(**{name: -1})
    with pytest.raises(TypeError, match=f"^{name}: got 0.5"):
        Augment(**{name: 0.5})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blur": 1}, "change: got 'blur', expected some of top, left"),
        ({"lens": -1}, "lens: got -1, expected -0.9 to 9"),
        ({"angle": float("nan")}, "angle: got nan"),
        ({"step_x": 0}, "step_x: got 0"),
        ({"radius": 1}, "radius: got 1"),
    ],
)
def test_change_image_refuses(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        change_image(picture(), **change)


def test_no_place_leads_out_of_the_image():
    """Whatever is asked of it: what is read must lie within the image."""
    image = picture(3, 7, 9)
    for value in (np.nan, np.inf, -np.inf, 1e300, -1e300):
        for name in ("top", "left", "angle", "lens"):
            with np.errstate(all="ignore"):
                apply(image, (8, 8), **{name: value})


DOCS = Path(__file__).parents[2] / "docs"


def test_pictures_are_what_the_command_draws(tmp_path):
    runpy.run_path(str(DOCS / "pictures.py"))["draw_all"](tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in (DOCS / "augment").iterdir())
    assert {f"{name}.png" for name in EFFECTS} < set(names)
    for name in names:
        drawn, kept = (
            np.asarray(Image.open(directory / name)).astype(int)
            for directory in (tmp_path, DOCS / "augment")
        )
        assert drawn.shape == kept.shape and (DOCS / "augment" / name).stat().st_size < 60_000
        # Another CPU may round a value, and another Pillow draw an outline, in another way.
        assert np.abs(drawn - kept).mean() < 0.5


def test_amounts_are_documented():
    text = (DOCS / "augment.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", text, re.M))
    assert list(rows) == list(EFFECTS)
    for name, row in rows.items():
        assert re.findall(r"\d+", row)[0] == str(EFFECTS[name][0])
    assert set(re.findall(r"\(augment/(\w+)\.png\)", text)) == {*EFFECTS, "all"}
