"""What docs/pytorch.md says: its examples run, and its table is that of the registry."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import lowerconv.torch  # noqa: E402
from lowerconv.torch.registry import OPERATORS  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs/pytorch.md").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_examples_run_in_order(tmp_path, monkeypatch, capsys):
    convert, train, script, compiled, patched, ranks = EXAMPLES
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for example in (convert, train, script, patched):
        exec(compile(example, "pytorch.md", "exec"), names)
    assert torch.isfinite(names["loss"]) and names["accuracy"] > 0.6
    assert "epoch 2" in capsys.readouterr().out
    assert torch.load("model.pt").keys() == names["model"].state_dict().keys()
    kinds = [type(m) for m in names["patched"].children()]
    assert kinds == [lowerconv.torch.Conv2d] * 2
    assert "lowerconv" in compiled and "write_back" in ranks


def test_one_line_of_the_script_is_ours():
    (script,) = (text for text in EXAMPLES if "# the one line" in text)
    ours = [line for line in script.splitlines() if "lowerconv" in line and "import" not in line]
    assert len(ours) == 1 and ours[0].endswith("# the one line")


def test_the_table_is_that_of_the_registry():
    rows = dict(re.findall(r"^\| (compiled|NumPy) \| (.*) \|$", PAGE, re.M))
    for how, listed in rows.items():
        expected = {
            name.split(".")[0] for name, o in OPERATORS.items() if o.how == how and "::" not in name
        }
        assert set(re.findall(r"`(\w+)`", listed)) == expected
