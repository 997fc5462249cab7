"""The layers of the package: who may import whom, and that nobody imports in a circle; file sizes.

Read from the source, imports inside functions included; those for type checkers alone are left out.
"""

import ast
from pathlib import Path

import lowerconv

ROOT = Path(lowerconv.__file__).parent

# From the bottom up: a module imports from its own layer and from those earlier in this list.
LAYERS = (
    ("version", "checks", "copying", "closing", "printable", "files", "console"),
    ("arguments", "machine"),
    ("codegen",),
    ("runtime", "locks"),
    ("ops",),
    ("conv",),
    ("functional",),
    ("nn",),
    ("quant",),
    ("onnx", "torch", "sklearn", "jax"),
    ("data",),
    ("parallel",),
    ("predict",),
    ("train",),
    ("bench",),
    ("cli",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


def modules() -> dict[str, Path]:
    """Return the files of all modules by their names."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imported(path: Path) -> dict[str, int]:
    """Return the modules of this package that a file imports, and the line of each."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = {}
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lowerconv"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found[whole if whole in MODULES else str(node.module)] = node.lineno
        elif isinstance(node, ast.Import):
            found |= {a.name: node.lineno for a in node.names if a.name.startswith("lowerconv.")}
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def layer(name: str) -> int | None:
    """Return the layer of a module; None of the package itself and its entry."""
    return LAYER.get((*name.split("."), "")[1])


def test_every_module_has_a_layer():
    for name in MODULES:
        assert layer(name) is not None or name in ("lowerconv", "lowerconv.__main__"), name


def test_nobody_imports_upward():
    for name, found in IMPORTS.items():
        mine = layer(name)
        for other, line in found.items():
            theirs = layer(other)
            if mine is not None and theirs is not None:
                assert theirs <= mine, f"{MODULES[name]}:{line}: {name} imports {other}"


def test_nobody_imports_in_a_circle():
    done: set[str] = set()

    def follow(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name in done:
            return
        for other in IMPORTS.get(name, ()):
            follow(other, (*path, name))
        done.add(name)

    for name in MODULES:
        follow(name, ())


def test_files_are_short_and_formatted():
    """A file of more than 400 lines holds more than one concept."""
    root, skipped = Path(__file__).parents[1], 0
    for folder in ("bench", "docs", "lowerconv", "tests"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            lines = text.count("\n")
            assert lines <= 400, f"{path}: {lines} lines, expected at most 400"
            skipped += text.count("# fmt: " + "skip")
    assert skipped <= 15, f"# fmt: skip: {skipped} times, expected at most 15"
