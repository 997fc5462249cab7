"""What the README and the pages of docs say works."""

import doctest
import re
import shlex
from pathlib import Path

import lowerconv
from lowerconv.cli.main import build_parser
from tests.modules import importable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def run_examples(text: str, name: str) -> dict:
    """Run the Python examples of a page, one after the other; return what they leave."""
    examples = blocks(text, "python")
    assert len(examples) >= 2
    namespace: dict = {}
    for example in examples:
        exec(compile(example, name, "exec"), namespace)
    return namespace


def test_python_examples_of_the_readme_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_examples(README, "README.md")
    assert found["dw"].shape == found["w"].shape
    assert found["scores"].shape == (4, 10)


def test_python_examples_of_networks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_examples(PAGES["networks.md"], "networks.md")
    assert found["history"][-1].test_accuracy == found["accuracy"]
    assert found["probabilities"].shape == (5, 10)


def test_python_examples_of_precision_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_examples(PAGES["precision.md"], "precision.md")
    weights = found["net"].parameters()["1.weight"].data
    assert (weights * 2**12 % 1 == 0).all()


def test_readme_is_short():
    assert len(README.split()) <= 1400


def test_links_lead_somewhere():
    for folder, text in ((ROOT, README), *((ROOT / "docs", page) for page in PAGES.values())):
        for target in LINK.findall(text):
            assert (folder / target).exists(), target


def test_paths_of_the_source_tree_are_there():
    """As pages name them: from the root, or from the package, which the drawings leave out."""
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*.py")]
    for name, text in {"README.md": README, **PAGES}.items():
        for path in re.findall(r"\b(?:\w+/)+\w+\.py\b", text):
            assert any(f"/{file}".endswith(f"/{path}") for file in files), f"{name}: {path}"


def test_commands_have_these_options():
    """Every option of a ``lowerconv`` command that an example names."""
    parser = build_parser()
    pages = "networks.md", "algorithms.md", "precision.md", "stream.md"
    texts = README, *(PAGES[name] for name in pages)
    lines = [line for text in texts for block in blocks(text, "sh") for line in block.splitlines()]
    tried = 0
    for line in lines:
        words = shlex.split(line.split("&&")[-1], comments=True)
        if "lowerconv" in words and "-m" not in words:
            parser.parse_args(words[words.index("lowerconv") + 1 :])  # ends the test if it cannot
            tried += 1
    assert tried > 8


def test_ci_runs_the_test_command_as_it_stands():
    (command,) = [
        block.strip() for block in blocks(README, "sh") if block.strip().endswith("&& tox")
    ]
    assert "\n" not in command
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_install_command_is_one_line():
    (command,) = [block.strip() for block in blocks(README, "sh") if "mpiexec -n 2" in block]
    assert "\n" not in command


def test_documented_files_are_there():
    for text in (README[README.index("## How it is built") :], PAGES["architecture.md"]):
        names = re.findall(r"\b((?:\w+/)*\w+\.py)\b", text)
        assert len(names) > 8
        for name in names:
            assert list(ROOT.glob(f"lowerconv/**/{name}")) or (ROOT / name).exists(), name


def test_algorithms_are_the_documented_ones():
    names = re.findall(r'^\| `"(\w+)"` \|', PAGES["algorithms.md"], re.M)
    assert tuple(names) == lowerconv.algorithms()


def test_docstring_examples():
    tried = 0
    for module in importable():
        result = doctest.testmod(module)
        assert result.failed == 0, module.__name__
        tried += result.attempted
    assert tried > 5
