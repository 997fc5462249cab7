"""``lowerconv tune``: what it has planned, and what it prints; nothing is measured here."""

from types import SimpleNamespace

import pytest

from lowerconv.cli import tune
from lowerconv.cli.main import main
from lowerconv.cli.tune import model_layers
from lowerconv.conv.wisdom import recall, remember, wisdom_path
from lowerconv.runtime.threads import set_num_threads

PASSES = ("forward", "input_grad", "weight_grad")
MEASURED = [("pipelined 6x64", 1.25e-3), ("lowering", 2e-3), ("direct", 1.0)]
ONE_LAYER = ("--x", "1,64,56,56", "--w", "32,64,3,3")


@pytest.fixture(autouse=True)
def threads(monkeypatch, tmp_path):
    """Give each test a directory of its own; return how many threads are asked for."""
    asked: list[int] = []
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "set_num_threads", asked.append)
    return asked


@pytest.fixture
def planned(monkeypatch):
    """Return the calls of plan_conv2d, which measures each problem the first time."""
    calls = []

    def plan(x_shape, w_shape, **options):
        known = (x_shape, w_shape, options) in calls
        calls.append((x_shape, w_shape, options))
        return SimpleNamespace(choice="pipelined", tuning=[] if known else MEASURED)

    monkeypatch.setattr(tune, "plan_conv2d", plan)
    return calls


@pytest.fixture
def printed(planned, capsys, monkeypatch):
    """Return a function: the lines that the command prints, white space made single."""

    def call(*arguments, columns=200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["tune", *arguments]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return [" ".join(line.split()) for line in out.splitlines()]

    return call


class TestModel:
    def test_every_pass_of_every_convolution(self, printed, planned):
        printed("--model", "lenet", "--batch", "32")
        geometry = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        assert planned == [
            (x, w, geometry | {"op": op, "dtype": "float32", "bias": bias, "tune": True})
            for x, w in [
                ((32, 1, 28, 28), (20, 1, 5, 5)),
                ((32, 20, 12, 12), (50, 20, 5, 5)),
            ]
            for op, bias in zip(PASSES, (True, False, False), strict=True)
        ]

    def test_layers_as_an_image_meets_them(self):
        first, second, third = model_layers("cifar10_quick", 7, (3, 33, 47))
        assert (first.name, first.x_shape) == ("0: 32,3,5,5", (7, 3, 33, 47))
        assert (second.name, second.x_shape) == ("3: 32,32,5,5", (7, 32, 16, 23))
        assert (third.name, third.x_shape) == ("6: 64,32,5,5", (7, 32, 8, 11))
        assert third.w_shape == (64, 32, 5, 5)
        assert third.geometry == {"stride": 1, "padding": 2, "dilation": 1, "groups": 1}

    def test_image_and_batch_are_the_models_own(self):
        assert model_layers("lenet")[0].x_shape == (64, 1, 28, 28)
        assert model_layers("cifar10_quick")[0].x_shape == (50, 3, 32, 32)

    def test_input(self, printed, planned):
        lines = printed("--model", "lenet", "--input", "3", "20", "24", "--batch", "2")
        assert planned[0][:2] == ((2, 3, 20, 24), (20, 3, 5, 5))
        assert lines[0].startswith("lenet, images 2,3,20,24, float32, ")

    def test_table(self, printed):
        lines = printed("--model", "lenet", "--batch", "4")
        assert lines[1] == "layer pass chosen ms runner-up"
        assert lines[2] == "0: 20,1,5,5 forward pipelined 6x64 1.250 1.60 times measured"
        assert lines[7] == "3: 50,20,5,5 weight_grad pipelined 6x64 1.250 1.60 times measured"
        assert lines[8] == f"remembered in {wisdom_path()}"
        assert len(lines) == 9

    def test_fits_in_80_columns(self, printed):
        lines = printed("--model", "cifar10_quick", columns=80)
        assert max(len(line) for line in lines[:-1]) <= 80  # the last is a path
        assert not any("…" in line or "\x1b" in line for line in lines)


class TestOneLayer:
    def test_options_are_handed_on(self, printed, planned, threads):
        arguments = "--stride 2,1 --padding 1 --dilation 2 --groups 2 --dtype float64 --threads 1"
        printed(*ONE_LAYER, *arguments.split(), "--passes", "weight_grad", "forward")
        geometry = {"stride": (2, 1), "padding": 1, "dilation": 2, "groups": 2}
        assert planned == [
            (
                (1, 64, 56, 56),
                (32, 64, 3, 3),
                geometry | {"op": op, "dtype": "float64", "bias": False, "tune": True},
            )
            for op in ("weight_grad", "forward")
        ]
        assert threads == [1]

    def test_what_is_not_given_is_left_to_the_plan(self, printed, planned, threads):
        printed(*ONE_LAYER, "--passes", "forward", "--padding", "same")
        assert {"padding": "same", "op": "forward"}.items() <= planned[0][2].items()
        assert not {"stride", "dilation", "groups"} & set(planned[0][2])
        assert threads == []

    def test_remembered(self, printed):
        assert printed(*ONE_LAYER)[2].endswith("1.60 times measured")
        assert printed(*ONE_LAYER)[2] == "32,64,3,3 forward pipelined - - remembered"

    def test_no_runner_up(self, printed, monkeypatch):
        plan = SimpleNamespace(tuning=[("direct", 2.0)])
        monkeypatch.setattr(tune, "plan_conv2d", lambda *shapes, **options: plan)
        assert printed(*ONE_LAYER)[2] == "32,64,3,3 forward direct 2000.000 - measured"

    def test_an_image_without_batch(self, printed, planned):
        printed("--x", "64,56,56", "--w", "32,64,3,3")
        assert planned[0][0] == (64, 56, 56)


class TestForget:
    def test_alone(self, printed, planned):
        remember("a", {"a": 1})
        assert printed("--forget") == [f"forgotten: {wisdom_path()}"]
        assert recall("a") is None
        assert planned == []

    def test_before_tuning(self, printed, monkeypatch):
        remember("a", {"a": 1})
        seen = []

        def plan(*shapes, **options):
            seen.append(recall("a"))
            return SimpleNamespace(choice="direct", tuning=[])

        monkeypatch.setattr(tune, "plan_conv2d", plan)
        printed(*ONE_LAYER, "--forget")
        assert seen == [None] * 3

    def test_only_when_asked(self, printed):
        remember("a", {"a": 1})
        printed(*ONE_LAYER)
        assert recall("a") == {"a": 1}


MISTAKES = {
    "nothing": ([], "got neither --model nor --x, expected one of them"),
    "both": (["--model", "lenet", *ONE_LAYER], "not allowed with argument"),
    "unknown-model": (["--model", "vgg"], "--model: invalid choice: 'vgg'"),
    "no-filters": (["--x", "1,2,3,4"], "--x: got no --w, expected the filters"),
    "filters-alone": (["--w", "1,2,3,4", "--model", "lenet"], "--w: got it without --x"),
    "stride-of-a-model": (["--model", "lenet", "--stride", "2"], "--stride: got it without --x"),
    "batch-of-a-layer": ([*ONE_LAYER, "--batch", "2"], "--batch: got it without --model"),
    "too-few-extents": (["--x", "1,2"], "--x: got 1,2, expected N,N,N or N,N,N,N, integers"),
    "no-number": (["--x", "1,2,3,four"], "--x: got 1,2,3,four, expected"),
    "empty-batch": (["--x", "0,2,3,4"], "--x: got 0,2,3,4, expected N,N,N or N,N,N,N, integers of"),
    "negative-padding": ([*ONE_LAYER, "--padding", "-1"], "--padding: got -1, expected N or N,N"),
    "unknown-pass": ([*ONE_LAYER, "--passes", "backward"], "--passes: invalid choice: 'backward'"),
    "dtype": ([*ONE_LAYER, "--dtype", "int8"], "--dtype: invalid choice: 'int8'"),
    "too-small-images": (["--model", "lenet", "--input", "1", "4", "4"], "at least 16 x 16 pixels"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_without_a_traceback(planned, capsys, arguments, message):
    try:
        status = main(["tune", *arguments])
    except SystemExit as end:  # argparse's way
        status = end.code
    assert status in (1, 2)
    assert message in capsys.readouterr().err
    assert planned == []


def test_too_many_threads(planned, capsys, monkeypatch):
    monkeypatch.setattr(tune, "set_num_threads", set_num_threads)
    assert main(["tune", *ONE_LAYER, "--threads", "100000"]) == 1
    assert "--threads: n: got 100000 threads" in capsys.readouterr().err


def test_mistakes_that_the_plan_finds(capsys, monkeypatch):
    def refuse(*shapes, **options):
        raise ValueError("groups: got 5, expected a divisor")

    monkeypatch.setattr(tune, "plan_conv2d", refuse)
    assert main(["tune", *ONE_LAYER, "--groups", "5"]) == 1
    assert capsys.readouterr().err == "lowerconv: error: groups: got 5, expected a divisor\n"
