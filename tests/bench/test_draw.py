"""Pictures: files that are not blank, nothing cut off, and to be told apart in grey."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from lowerconv.bench import draw
from lowerconv.bench.tables import TABLES

from .made_up import LITERATURE, made_up

pytest.importorskip("matplotlib")


def grey(colour):
    """Return the luminance of a colour, from 0 to 1."""
    return float(np.dot([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], [0.3, 0.59, 0.11]))


@pytest.mark.parametrize("table", LITERATURE)
def test_pictures(tmp_path, table):
    from matplotlib.image import imread

    path, *_ = draw.save_picture(TABLES[table], made_up(table, batch=2), tmp_path)
    assert path == tmp_path / f"{table}.png"
    pixels = imread(path)[:, :, :3]
    assert min(pixels.shape[:2]) > 500
    dark = pixels.mean(axis=2) < 0.5
    assert 0.002 < dark.mean() < 0.5
    # Nothing reaches the margins: texts are not cut off.
    for edge in (dark[:4], dark[-4:], dark[:, :4].T, dark[:, -4:].T):
        assert not edge.any()


def test_part_of_a_network_can_be_drawn(tmp_path):
    for table, layers in (("alexnet", "conv2"), ("googlenet", "4a-3x3"), ("roofline", "^dw2$")):
        (path,) = draw.save_picture(TABLES[table], made_up(table, 2, layers), tmp_path)
        assert path.exists()


def test_other_files_of_a_table_are_written_beside_its_picture(tmp_path):
    study = dataclasses.replace(TABLES["cifar10"], files=lambda result: {"a.trace": b"{}"})
    paths = draw.save_picture(study, made_up("cifar10"), tmp_path)
    assert paths == [tmp_path / "cifar10.png", tmp_path / "a.trace"]
    assert paths[1].read_bytes() == b"{}"


def test_styles_differ_in_grey_or_by_hatch():
    lightness = [grey(draw.STYLES[name].colour) for name in ("direct", "lowering", "pipelined")]
    lightness.append(grey(draw.STYLES["fused"].colour))
    assert all(a - b > 0.15 for a, b in pairwise(lightness))
    styles = [*draw.STYLES.values(), *draw.OTHERS]
    assert len({style.marker for style in styles}) == len(styles)
    assert len({(round(grey(s.colour), 1), s.hatch) for s in styles}) == len(styles)


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match=r'pip install "lowerconv\[plot\]"'):
        draw.save_picture(TABLES["cifar10"], made_up("cifar10"), tmp_path)
