"""docs/onnx.md: its examples run, and its table is that of the operators.

``python -m tests.onnx.test_docs`` writes the table anew.
"""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="reads ONNX files")

from lowerconv.onnx import operators  # noqa: F401  (fills the table)
from lowerconv.onnx.registry import OPERATORS

PAGE = Path(__file__).parents[2] / "docs" / "onnx.md"
BEGIN, END = "<!-- operators -->\n", "<!-- end -->"


def table() -> str:
    """Return the table of operators as the page has it."""
    lines = ["| computed by | operators |", "|---|---|"]
    for how in ("compiled", "NumPy", "onnx.reference"):
        names = sorted(name for name, known in OPERATORS.items() if known.how == how)
        lines.append(f"| {how} | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def examples() -> list[str]:
    """Return the Python examples of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_the_table_is_that_of_the_operators():
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == table()


def test_examples_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for example in examples():
        if "rapidocr_onnxruntime" not in example:  # test_ocr.py runs that
            exec(compile(example, PAGE.name, "exec"), namespace)
    assert np.array_equal(namespace["outputs"][0], namespace["scores"])
    assert (tmp_path / "trained.onnx").exists()


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(before + BEGIN + table() + END + after, encoding="utf-8")
