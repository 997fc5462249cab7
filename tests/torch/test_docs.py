"""What docs/pytorch.md says: its examples run, and its table is that of the registry."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import lowerconv.torch  # noqa: E402, F401
from lowerconv.torch.registry import OPERATORS  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs/pytorch.md").read_text(encoding="utf-8")


def test_examples_run_in_order():
    convert, train, compiled = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names: dict = {}
    for example in (convert, train):
        exec(compile(example, "pytorch.md", "exec"), names)
    assert torch.isfinite(names["loss"])
    assert "lowerconv" in compiled


def test_the_table_is_that_of_the_registry():
    rows = dict(re.findall(r"^\| (compiled|NumPy) \| (.*) \|$", PAGE, re.M))
    for how, listed in rows.items():
        expected = {
            name.split(".")[0] for name, o in OPERATORS.items() if o.how == how and "::" not in name
        }
        assert set(re.findall(r"`(\w+)`", listed)) == expected
