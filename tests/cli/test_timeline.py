"""`lowerconv train --timeline`, and `lowerconv timeline` that tells and draws it."""

import sys

import numpy as np
import pytest

from lowerconv.cli.main import main
from lowerconv.parallel.trace.chrome import read, write

from ..long import long_but
from ..parallel.traces import made_up_trace


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "trace.json"
    write(made_up_trace(3), path)
    return path


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def test_the_table_has_a_row_for_each_rank_and_one_for_all(path, capsys):
    assert main(["timeline", str(path)]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}
    figures = ["100.0", "78.0", "10.0", "12.0", "35.0", "71%", "9"]
    assert rows["0,"] == ["host0", *figures, "80"]
    assert rows["2,"] == ["host1", *figures, "100"]
    assert rows["all"] == [*figures, "270"]
    assert "steps 5 to 7 of the run" in printed
    assert "times of different ranks are comparable to 0.002 ms" in printed


def pixels(path):
    image = pytest.importorskip("matplotlib.image")
    return image.imread(path)[:, :, :3]


@pytest.mark.parametrize("ranks", long_but([1, 9], [1, 2, 3, 5, 8, 9]))
def test_pictures(tmp_path, capsys, ranks):
    path = tmp_path / "trace.json"
    write(made_up_trace(ranks), path)
    assert main(["timeline", str(path), "--plot"]) == 0
    assert str(tmp_path / "trace.png") in capsys.readouterr().out.replace("\n", "")
    image = pixels(tmp_path / "trace.png")
    assert image.shape[1] > 1500
    dark = image.mean(axis=2) < 0.5
    assert 0.01 < dark.mean() < 0.5
    for edge in (dark[:2], dark[-2:], dark[:, :2], dark[:, -2:]):  # nothing is cut off
        assert not edge.any()


def texts(trace, monkeypatch, path, **options):
    """Return all texts of a picture."""
    figure = pytest.importorskip("matplotlib.figure")
    text = pytest.importorskip("matplotlib.text")
    from lowerconv.bench.step_picture import save_picture

    found = []
    save = figure.Figure.savefig

    def keep(self, *arguments, **more):
        found.extend(t.get_text() for t in self.findobj(text.Text) if t.get_text())
        save(self, *arguments, **more)

    monkeypatch.setattr(figure.Figure, "savefig", keep)
    save_picture(trace, path, **options)
    return found


def test_a_picture_says_what_it_shows(tmp_path, monkeypatch):
    found = texts(made_up_trace(9), monkeypatch, tmp_path / "a.png", number=7)
    (title,) = [text for text in found if "step 7" in text]
    assert "9 ranks (the first 8 are shown)" in title
    assert "100.0 ms, 71% of the communication hidden" in title
    assert any(text.startswith("time (ms)") for text in found)
    for label in ("forward", "loss", "backward", "update", "waiting for communication"):
        assert label in found
    assert found.count("bucket 0, 4 MB") == 8
    assert any(text.startswith("Conv2d") for text in found)
    assert any(text.startswith("rank 7 on host3") for text in found)
    assert not any(text.startswith("rank 8") for text in found)


def test_the_middle_step_is_drawn_unless_told_otherwise(tmp_path, monkeypatch):
    found = texts(made_up_trace(2, steps=5), monkeypatch, tmp_path / "a.png")
    assert any("step 7 of 2 ranks" in text for text in found)


def test_kinds_can_be_told_apart_in_grey():
    from lowerconv.bench.step_picture import STYLES

    def grey(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return float(np.dot(parts, [0.3, 0.59, 0.11]))

    looks = [(round(grey(style.colour), 1), style.hatch) for style in STYLES.values()]
    assert len(set(looks)) == len(looks)
    plain = sorted(grey(style.colour) for style in STYLES.values() if not style.hatch)
    assert min(np.diff(plain)) > 0.2


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--step", "4", "--plot"], "step: got 4, expected one of 5 to 7"),
        (["--step", "6"], "--step: got it without --plot"),
        (["--plot", "{path}"], "expected another file than the trace"),
        (["--plot", "{path}/a.png"], ""),
    ],
)
def test_mistakes_are_told_in_a_line(path, capsys, arguments, message):
    pytest.importorskip("matplotlib")
    before = path.read_bytes()
    assert main(["timeline", str(path), *(a.format(path=path) for a in arguments)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [None, b"", b"{", b"{}", b"\x89PNG\r\n", b'{"otherData": 3}'])
def test_other_files_are_told_in_a_line(tmp_path, capsys, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["timeline", str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert len(error.splitlines()) == 1


def test_without_matplotlib_a_hint_says_what_to_install(path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["timeline", str(path), "--plot"]) == 1
    error = capsys.readouterr().err
    assert 'pip install "lowerconv[plot]"' in error
    assert len(error.splitlines()) == 1


def train(tiny_fashion, tmp_path, *more):
    return [
        *("-m", "lowerconv", "train", "--data", f"fashion-mnist:{tiny_fashion}"),
        *("--epochs", "1", "--batch", "30", "--out", tmp_path / "out"),
        *("--timeline", tmp_path / "trace.json", *more),
    ]


@pytest.mark.parametrize("ranks", [1, 3])
def test_training_writes_a_trace_of_all_ranks(mpiexec, tiny_fashion, tmp_path, ranks):
    more = ("--timeline-first", 2, "--timeline-count", 3)
    run = mpiexec(ranks, *train(tiny_fashion, tmp_path, *more))
    assert run.returncode == 0, run.stderr
    assert "timeline: 3 steps of" in run.stdout
    assert ("of it hidden" in run.stdout) == (ranks > 1)
    trace = read(tmp_path / "trace.json")
    assert len(trace.ranks) == ranks
    assert "lenet on fashion-mnist" in trace.about
    for rank in trace.ranks:
        assert [step.number for step in rank.steps] == [2, 3, 4]
        kinds = {event.kind for event in rank.events}
        assert {"data", "forward", "loss", "backward", "update"} <= kinds
        assert (len(rank.transfers) > 0) == (ranks > 1)
    for number in range(3):
        images = sum(rank.steps[number].images for rank in trace.ranks)
        assert images == 30


def test_a_run_that_is_too_short_says_so(run_here, tiny_fashion, tmp_path):
    arguments = train(tiny_fashion, tmp_path, "--timeline-first", 7)[2:]
    run = run_here(*arguments)
    assert run.returncode == 0, run.stderr
    assert "the run ended before step 7" in run.stdout.replace("\n", " ")
    assert not (tmp_path / "trace.json").exists()


def test_a_folder_that_is_not_there_is_told_before_training(run_here, tiny_fashion, tmp_path):
    arguments = train(tiny_fashion, tmp_path)[2:-1]
    run = run_here(*arguments, tmp_path / "missing" / "trace.json")
    assert run.returncode == 1
    assert "timeline: got a file in" in run.stderr
    assert len(run.stderr.splitlines()) == 1
