"""What the README says works."""

import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import lowerconv
from lowerconv.cli.main import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_python_examples_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = blocks("python")
    assert len(examples) >= 3
    namespace: dict = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), namespace)
    assert namespace["dw"].shape == namespace["w"].shape
    assert namespace["history"][-1].test_accuracy == namespace["accuracy"]
    assert namespace["probabilities"].shape == (5, 10)


def test_commands_have_these_options():
    """Every option of a ``lowerconv`` command that an example names."""
    parser = build_parser()
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    tried = 0
    for line in lines:
        words = shlex.split(line.split("&&")[-1], comments=True)
        if "lowerconv" in words and "-m" not in words:
            parser.parse_args(words[words.index("lowerconv") + 1 :])  # ends the test if it cannot
            tried += 1
    assert tried > 8


def test_ci_runs_the_test_command_as_it_stands():
    (command,) = [block.strip() for block in blocks("sh") if block.strip().endswith("&& tox")]
    assert "\n" not in command
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_install_command_is_one_line():
    (command,) = [block.strip() for block in blocks("sh") if "mpiexec -n 2" in block]
    assert "\n" not in command


def test_documented_files_are_there():
    picture = README[README.index("## How it is built") : README.index("## Develop")]
    names = re.findall(r"\b(\w+\.py)\b", picture)
    assert len(names) > 8
    for name in names:
        assert list((ROOT / "lowerconv").rglob(name)), name


def test_algorithms_are_the_documented_ones():
    table = README[README.index("## Six ways") : README.index("## How it is built")]
    assert tuple(re.findall(r'^\| `"(\w+)"` \|', table, re.M)) == lowerconv.algorithms()


def test_docstring_examples():
    tried = 0
    for found in pkgutil.walk_packages(lowerconv.__path__, "lowerconv."):
        if not found.name.endswith("__main__"):
            result = doctest.testmod(importlib.import_module(found.name))
            assert result.failed == 0, found.name
            tried += result.attempted
    assert tried > 5
