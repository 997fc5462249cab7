"""``lowerconv bench``: its options, what it prints and writes; next to nothing is measured here."""

import json
import sys

import pytest

from lowerconv.bench import store
from lowerconv.bench.tables import TABLES
from lowerconv.cli import bench
from lowerconv.cli.main import main
from lowerconv.runtime.threads import get_num_threads, set_num_threads

from ..bench.made_up import LITERATURE, made_up


@pytest.fixture(autouse=True)
def threads():
    """Set the number of threads back."""
    before = get_num_threads()
    yield
    set_num_threads(before)


@pytest.fixture
def measured(monkeypatch):
    """Return what would have been measured, as (table, options)."""
    calls = []
    monkeypatch.setattr(bench, "TABLES", LITERATURE)

    def measure(study, options, notify):
        calls.append((study.name, options))
        return made_up(study.name, options.batch, options.layers.pattern)

    monkeypatch.setattr(bench, "measure", measure)
    return calls


@pytest.fixture
def printed(capsys, monkeypatch):
    """Return a function: the lines that the command prints, white space made single."""

    def call(*arguments):
        monkeypatch.setenv("COLUMNS", "100")
        assert main(["bench", *map(str, arguments)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "…" not in out
        return [" ".join(line.split()) for line in out.splitlines()]

    return call


def test_every_table_with_its_own_defaults(printed, measured):
    lines = printed()
    assert [name for name, _ in measured] == list(LITERATURE)
    for name, options in measured:
        study = LITERATURE[name]
        assert (options.batch, options.passes) == (study.batch, study.passes)
        assert options.threads == get_num_threads()
    assert "CIFAR-10 network: ms (speed-up over lowering)" in lines
    assert lines.count("no other process disturbed it") == len(LITERATURE)


def test_options_are_handed_on(printed, measured):
    arguments = "--batch 7 --threads 1 --passes weight_grad forward --layers 5x5 --seconds 0.5"
    printed("--table", "roofline", "googlenet", *arguments.split())
    assert [name for name, _ in measured] == ["roofline", "googlenet"]
    for _, options in measured:
        assert (options.batch, options.threads, options.seconds) == (7, 1, 0.5)
        assert options.passes == ("weight_grad", "forward")
        assert options.layers.pattern == "5x5"


def test_tables_without_such_layers_are_left_out(printed, measured):
    lines = printed("--layers", "^4a", "--table", "cifar10", "googlenet", "training")
    assert [name for name, _ in measured] == ["googlenet", "training"]
    assert "cifar10: no layer's name contains '^4a', left out" in lines


def test_save_compare_and_load(printed, measured, tmp_path):
    lines = printed("--table", "cifar10", "training", "--save", tmp_path / "a")
    assert f"saved: {tmp_path}/a/cifar10.json" in lines
    # What was saved is measured again, and nothing else.
    del measured[:]
    lines = printed("--compare", tmp_path / "a")
    assert [name for name, _ in measured] == ["cifar10", "training"]
    assert "cifar10: before, and now" in lines
    assert "geometric mean 1.00" in lines
    assert not any("NOT COMPARABLE" in line for line in lines)
    # A run may replace the one that it is compared with.
    printed("--compare", tmp_path / "a", "--save", tmp_path / "a")
    # Two saved runs: nothing is measured.
    store.save(made_up("cifar10", ratio=0.25), tmp_path / "b")
    del measured[:]
    lines = printed("--load", tmp_path / "b", "--compare", tmp_path / "a")
    assert measured == []
    assert "geometric mean 4.00" in lines
    assert not any(line.startswith("training") for line in lines)


def test_another_machine_is_told_loudly(printed, measured, tmp_path):
    other = made_up("cifar10", batch=20)
    other.machine["cpu"]["name"] = "Maker 1"
    store.save(other, tmp_path)
    lines = printed("--compare", tmp_path)
    place = lines.index("NOT COMPARABLE: the two runs differ in")
    assert lines[place + 1 : place + 3] == [
        "batch: 20 before, 100 now",
        "cpu.name: Maker 1 before, Maker 9999 now",
    ]
    assert "conv1 forward fused 1.00 1.00 1.00 not comparable" in lines


def test_pictures_go_where_the_files_are(printed, measured, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    table = ("--table", "cifar10")
    assert "drawn: cifar10.png" in printed(*table, "--plot")
    assert f"drawn: {tmp_path}/a/cifar10.png" in printed(*table, "--save", tmp_path / "a", "--plot")
    printed(*table, "--save", tmp_path / "a", "--plot", "new/b")
    assert (tmp_path / "new" / "b" / "cifar10.png").stat().st_size > 10_000
    (tmp_path / "a" / "cifar10.png").unlink()
    printed("--load", tmp_path / "a", "--plot")
    assert (tmp_path / "a" / "cifar10.png").exists()


def test_it_measures(printed):
    small = ("--batch", 1, "--threads", 1, "--seconds", 0.001)
    lines = printed("--table", "cifar10", "--layers", "conv3", "--passes", "forward", *small)
    assert any(line.startswith("conv3_P 7 ") for line in lines)


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for name, study in TABLES.items():
        assert f"{name} " in out
        assert study.summary in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_saved_run_of_other_rows(measured, capsys, tmp_path):
    path = store.save(made_up("cifar10"), tmp_path)
    content = json.loads(path.read_text())
    for damage in ({"labels": {}}, {"facts": {}}, {"seconds": {}}):
        rows = [row | damage for row in content["rows"]]
        path.write_text(json.dumps(content | {"rows": rows}))
        assert main(["bench", "--compare", str(tmp_path)]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"lowerconv: error: --compare: {path}: damaged (")
        assert error.count("\n") == 1
    assert measured == []


MISTAKES = {
    "unknown-table": (["--table", "vgg"], "--table: invalid choice: 'vgg'"),
    "no-batch": (["--batch", "0"], "--batch: got 0, expected at least 1"),
    "half-a-batch": (["--batch", "1.5"], "--batch: got '1.5', expected int, at least 1"),
    "no-threads": (["--threads", "0"], "--threads: got 0, expected"),
    "too-many-threads": (["--threads", "100000"], "--threads: got 100000, expected at"),
    "no-seconds": (["--seconds", "0"], "--seconds: got 0.0, expected at least 0.001"),
    "nan-seconds": (["--seconds", "nan"], "--seconds: got nan, expected at least 0.001"),
    "unknown-pass": (["--passes", "sideways"], "--passes: invalid choice: 'sideways'"),
    "no-regex": (["--layers", "("], "--layers: got '(', expected a regular expression"),
    "no-such-layer": (
        ["--table", "cifar10", "--layers", "7x7"],
        "--layers: got '7x7', expected a part of the name of a layer of cifar10",
    ),
    "passes-of-training": (
        ["--table", "training", "--passes", "forward"],
        "--passes: got it with training, expected a table of single layers",
    ),
    "layers-of-training": (
        ["--table", "training", "--layers", "conv"],
        "--layers: got it with training, expected a table of single layers",
    ),
    "batch-of-a-saved-run": (["--load", "HERE", "--batch", "3"], "--batch: got it with --load"),
    "no-folder": (["--compare", "HERE/none"], "none: no such folder"),
    "no-run": (["--compare", "HERE/empty"], "--compare: HERE/empty: got no saved run, expected"),
    "not-saved": (
        ["--compare", "HERE", "--table", "alexnet"],
        "--compare: got no alexnet.json in HERE, expected one of cifar10.json, training.json",
    ),
    "damaged": (["--load", "HERE"], "--load: HERE/training.json: damaged or no JSON"),
    "damaged-compared": (["--compare", "HERE"], "--compare: HERE/training.json: damaged or no JS"),
    "not-overwritten": (
        ["--table", "training", "--save", "HERE"],
        "--save: HERE/training.json: damaged or no JSON",
    ),
    "a-file": (["--save", "HERE/cifar10.json"], "--save: got HERE/cifar10.json, expected a folder"),
    "a-file-for-pictures": (["--plot", "HERE/cifar10.json"], "--plot: got HERE/cifar10.json, exp"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_a_line(measured, capsys, tmp_path, arguments, message):
    store.save(made_up("cifar10"), tmp_path)
    (tmp_path / "training.json").write_text("{")
    (tmp_path / "empty").mkdir()
    try:
        status = main(["bench", *(text.replace("HERE", str(tmp_path)) for text in arguments)])
        expected = 1
    except SystemExit as end:  # argparse's way
        status, expected = end.code, 2
    assert status == expected
    *_, line = capsys.readouterr().err.splitlines()
    assert "error: " in line
    assert message.replace("HERE", str(tmp_path)) in line
    assert measured == []


def test_without_matplotlib_nothing_is_measured(measured, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", "--table", "cifar10", "--plot"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lowerconv: error: --plot: matplotlib is not installed: pip install")
    assert error.count("\n") == 1
    assert measured == []


def test_candidates_that_differ_end_the_run(capsys, monkeypatch):
    def measure(study, options, notify):
        raise RuntimeError("conv1, forward: fused differs from direct by 1.0e+00")

    monkeypatch.setattr(bench, "measure", measure)
    assert main(["bench", "--table", "cifar10"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
