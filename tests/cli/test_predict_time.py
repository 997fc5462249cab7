"""`lowerconv predict-time`."""

import json

import pytest

from lowerconv.cli.main import main
from lowerconv.cli.predict_time import chosen_shares
from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.predict.calibration import HOST, load, save
from lowerconv.predict.trial import Trial
from lowerconv.runtime.threads import get_num_threads

from ..predict.made_up import calibration, link_seconds, step_seconds


@pytest.fixture
def path(tmp_path):
    steps = [step_seconds(1, 0.001), step_seconds(64, 0.064, input=0.001)]
    links = [link_seconds(HOST, mib=0.001)]
    save(calibration(steps, links, [(2, 1.1)]), tmp_path / "c.json")
    return tmp_path / "c.json"


def printed(capsys, *arguments, status=0):
    assert main(["predict-time", *map(str, arguments)]) == status
    out, err = capsys.readouterr()
    return err if status else out


def rows(text):
    cells = [line.split() for line in text.splitlines()]
    return [row for row in cells if len(row) > 8 and row[0].isdecimal() and row[2].isdecimal()]


def test_a_row_for_each_number_of_ranks(path, capsys):
    text = printed(capsys, "--calibration", path, "--ranks", 1, 2)
    assert "lenet on fashion-mnist, strategy data: predicted" in text
    assert [row[:3] for row in rows(text)] == [["1", "1", "64"], ["2", "1", "64"]]
    assert "best: 1 node x 2 ranks x batch 32 (64 images a step)" in text
    assert "calibrated on made up, 1 thread of 2 cores for a rank" in text


def test_batches_up_to_the_largest(path, capsys):
    text = printed(capsys, "--calibration", path, "--ranks", 2, "--max-batch", 300)
    assert [row[2] for row in rows(text)] == ["64", "128", "256"]


def test_links_between_hosts_have_to_be_known(path, capsys):
    text = printed(capsys, "--calibration", path, "--ranks", 1, 4)
    assert "left out: 4 ranks, batch 64: links.network: got none" in text
    text = printed(capsys, "--calibration", path, "--ranks", 1, 4, "--gbit", 10)
    assert "links between hosts were not measured: taken to have 10 Gbit/s" in text
    assert len(rows(text)) == 2


def test_late_sums_have_a_column_of_their_own(path, capsys):
    given = ("--calibration", path, "--ranks", 1, 2, "--parallel", "async", "--staleness", 2)
    text = printed(capsys, *given)
    assert "stale" in text
    assert rows(text)[0][-1] == "-"
    assert 0 <= float(rows(text)[1][-1]) <= 2


def test_pictures(path, tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image")
    png = tmp_path / "a.png"
    text = printed(
        capsys, "--calibration", path, "--ranks", 1, 2, "--batch", 64, 128, "--plot", png
    )
    assert f"drawn: {png}" in text
    pixels = image.imread(png)[:, :, :3]
    dark = pixels.mean(axis=2) < 0.5
    assert 0.01 < dark.mean() < 0.5
    for edge in (dark[:2], dark[-2:], dark[:, :2], dark[:, -2:]):  # nothing is cut off
        assert not edge.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--owt-scheme", "a"], "owt_scheme: got 'a' with strategy 'data', expected it with owt"),
        (["--model", "vgg16"], "--model: got 'vgg16' with a calibration of 'lenet'"),
        (["--data", "cifar10:x"], "--data: got 'cifar10:x' with a calibration of"),
        (["--threads", "2"], "--threads: got it with --calibration"),
        (["--augment", "flip"], "--augment: got it with --calibration"),
        (["--latency-us", "2"], "--latency-us: got it without --gbit"),
        (["--staleness", "2"], "staleness: got 2 with strategy 'data'"),
        (["--plot", "a.doc"], "--plot: got a.doc"),
        (["--plot", "nowhere/a.png"], "--plot: nowhere: no such folder"),
    ],
)
def test_mistakes_are_told(path, capsys, arguments, message):
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    assert message in printed(capsys, "--calibration", path, *arguments, status=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ranks", "0"),
        ("ranks", "two"),
        ("batch", "-1"),
        ("ranks-per-node", "0"),
        ("gbit", "0"),
        ("gbit", "nan"),
        ("latency-us", "-1"),
        ("target-hours", "0"),
        ("budget-node-hours", "inf"),
        ("max-batch", "0"),
        ("epochs", "0"),
        ("threads", "0"),
        ("bucket-mib", "0"),
    ],
)
def test_options_out_of_their_range_are_named(capsys, name, value):
    with pytest.raises(SystemExit):
        main(["predict-time", f"--{name}", value])
    assert f"argument --{name}: got" in capsys.readouterr().err


def test_a_damaged_file_is_told_with_the_field(path, capsys):
    content = json.loads(path.read_text())
    content["crowds"][0]["slowdown"] = 0.5
    path.write_text(json.dumps(content))
    text = printed(capsys, "--calibration", path, status=1)
    assert f"{path}: crowds[0].slowdown: got 0.5" in text


def test_chosen_shares():
    assert chosen_shares([8, 4, 8, 2]) == [2, 4, 8]
    assert chosen_shares(list(range(1, 11))) == [1, 4, 7, 10]


def test_measured_alone(tmp_path, tiny_fashion, monkeypatch, capsys):
    monkeypatch.setattr(Trial.times, "__defaults__", (0.1,))  # seconds of steps
    path = tmp_path / "c.json"
    data = f"fashion-mnist:{tiny_fashion}"
    given = ("--model", "lenet", "--data", data, "--batch", 8, "--ranks", 1, 2)
    text = printed(capsys, "--calibrate", path, *given)
    assert f"calibration: {path}" in text
    known = load(path)
    assert (known.network.model, known.network.data) == ("lenet", data)
    assert [step.images for step in known.steps] == [4, 8]
    assert len(known.parameters) == 8
    assert known.links == known.crowds == ()
    again = printed(capsys, "--calibration", path, "--batch", 8, "--ranks", 1)
    assert [row[0] for row in rows(again)] == ["1"]
    for strategy in ("model", "owt"):
        given_split = ("--parallel", strategy, "--batch", 8, "--ranks", 1, 2, "--gbit", 10)
        split = printed(capsys, "--calibration", path, *given_split)
        assert f"strategy {strategy}: predicted" in split
        assert [row[0] for row in rows(split)] == ["1", "2"]
    told = printed(
        capsys,
        "--calibrate",
        path,
        "--model",
        "cifar10_quick",
        "--data",
        data,
        "--batch",
        8,
        "--ranks",
        1,
        status=1,
    )
    assert "calibrate: got model 'cifar10_quick' with a file of 'lenet'" in told


def test_a_run_tells_how_right_its_prediction_was(tmp_path, tiny_fashion, capsys):
    data, path = f"fashion-mnist:{tiny_fashion}", tmp_path / "c.json"
    save(calibration(data=data, threads=get_num_threads(), images=203), path)
    given = ("train", "--data", data, "--batch", "20", "--epochs", "1", "--calibration", str(path))
    assert main([*given, "--out", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert "predicted: 122 s to train an epoch; a step of 12 s: 100% compute" in out
    assert "predicted 122 s to train an epoch, measured " in out
    assert main([*given, "--model", "cifar10_quick", "--out", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "warning: no prediction: model: got 'cifar10_quick', expected 'lenet'" in out
    assert "measured" not in out
    path.write_text("{}")
    assert main([*given, "--out", str(tmp_path / "c")]) == 1
    assert f"{path}: format: expected" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_two_ranks(mpiexec, tmp_path, tiny_fashion):
    """Of real ranks: what is measured is all there; how long it took is nobody's business."""
    path, program = tmp_path / "c.json", tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.predict import calibrate\n"
        "calibrate.Trial.times.__defaults__ = (0.1,)\n"
        "calibrate.SECONDS = 0.1\n"
        "sys.exit(main())\n"
    )
    data = f"fashion-mnist:{tiny_fashion}"
    done = mpiexec(
        *(2, program, "predict-time", "--calibrate", path, "--model", "lenet"),
        *("--data", data, "--batch", "8", "--ranks", "1", "2", "--threads", "1"),
    )
    assert done.returncode == 0, done.stderr
    assert [row[0] for row in rows(done.stdout)] == ["1", "2"]
    known = load(path)
    assert [crowd.ranks for crowd in known.crowds] == [2]
    (link,) = known.links
    assert (link.kind, link.ranks) == (HOST, 2)
    for taken in link.by_size().values():
        assert set(taken) == set(ALLREDUCE) - {"two-level"}
    assert known.network.threads == 1
    names = {layer.layer for layer in known.steps[0].forward}
    assert {parameter.layer for parameter in known.parameters} <= names
    assert sum(parameter.items for parameter in known.parameters) == 431_080
