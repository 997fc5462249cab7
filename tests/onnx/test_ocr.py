"""RapidOCR with networks of ours, as docs/onnx.md shows it, reads what it reads without them."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("onnx", reason="reads ONNX files")
pytest.importorskip("rapidocr_onnxruntime", reason="RapidOCR is not installed")

import lowerconv.onnx

from .test_docs import PAGE, examples

LINES = ("Convolution by lowering", "1,234 images per second", "Ein Bild, zwei Kerne")


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Have a page of text in the working directory: upright lines, and one that is upside down."""
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (640, 320), "white")
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(LINES):
        draw.text((30, 20 + 70 * i), line, "black", ImageFont.load_default(36))
    turned = Image.new("RGB", (560, 60), "white")
    ImageDraw.Draw(turned).text((10, 5), "turned around", "black", ImageFont.load_default(36))
    picture.paste(turned.rotate(180), (30, 240))
    picture.save("page.png")
    return np.asarray(picture)


def test_the_same_text_is_read(page, monkeypatch):
    from rapidocr_onnxruntime import RapidOCR

    expected, _ = RapidOCR()("page.png")
    for name in (
        "ch_ppocr_cls.text_cls",
        "ch_ppocr_det.text_detect",
        "ch_ppocr_rec.text_recognize",
    ):
        module = sys.modules[f"rapidocr_onnxruntime.{name}"]
        monkeypatch.setattr(module, "OrtInferSession", module.OrtInferSession)  # is set back after
    namespace = {"lowerconv": lowerconv}
    (example,) = (code for code in examples() if "rapidocr_onnxruntime" in code)
    exec(compile(example, PAGE.name, "exec"), namespace)
    lines = namespace["lines"]
    assert [text for _, text, _ in lines] == [text for _, text, _ in expected]
    letters = "".join(text for _, text, _ in lines).replace(" ", "")
    assert letters == "".join([*LINES, "turned around"]).replace(" ", "")
    for (corners, _, score), (where, _, certainty) in zip(lines, expected, strict=True):
        np.testing.assert_allclose(corners, where, atol=1)  # pixels
        assert abs(float(score) - float(certainty)) < 1e-3
