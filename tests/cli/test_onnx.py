"""``lowerconv run``, ``show`` and ``compare`` as a user calls them."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

import lowerconv.onnx  # noqa: E402
from lowerconv.cli.main import main  # noqa: E402
from tests.onnx.networks import model_of, small_model  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save_model(small_model(np.random.default_rng(0)), path)
    return path


@pytest.fixture(scope="module")
def array(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32))
    return path


def test_run_takes_arrays_and_writes_outputs(model, array, tmp_path, capsys):
    out = tmp_path / "y.npz"
    assert main(["run", str(model), "--input", str(array), "--output", str(out)]) == 0
    assert "y: float32 (2, 5)" in capsys.readouterr().out
    expected = lowerconv.onnx.load(model)(np.load(array))
    with np.load(out) as found:
        assert np.array_equal(found["y"], expected)


def test_run_takes_pictures(model, tmp_path, capsys):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    assert main(["run", str(model), *map(str, paths), "--profile"]) == 0
    printed = capsys.readouterr().out
    pixels = np.asarray(Image.open(paths[1])).transpose(2, 0, 1)[None] / np.float32(255)
    y = lowerconv.onnx.load(model)(pixels.astype(np.float32))[0]
    assert f"largest {y.argmax()}: {y.max():.4g}" in printed
    assert re.search(r"Conv2d \+ ReLU .*%", printed)


def test_show_lists_layers(model, capsys):
    assert main(["show", str(model), "--shape", "2x3x12x12", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["layer", "operator", "shape", "algorithm"]
    assert any("2x8x6x6" in line and "fused" in line for line in lines)
    assert re.search(r"GFLOP, .* MiB of results, .* ms", lines[-1])
    assert main(["show", str(model), "--repeats", "0"]) == 0  # a batch of one
    assert "ms" not in capsys.readouterr().out


def test_show_draws(model, tmp_path):
    pytest.importorskip("matplotlib", reason="draws")
    picture = tmp_path / "net.svg"
    arguments = ["show", str(model), "--shape", "2x3x12x12", "--repeats", "1"]
    assert main([*arguments, "--plot", str(picture)]) == 0
    text = picture.read_text()
    assert text.count("Conv2d + hard_swish 2x8x6x6") == 1
    assert text.count("Softmax 2x5") == 1
    assert main([*arguments, "--plot", str(tmp_path / "net.what")]) == 1


def test_compare_tells_values_and_times(model, capsys):
    pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    assert main(["compare", str(model), "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^y +\(1, 5\) +\d\.\d\de[-+]\d\d", printed, re.M)
    assert "ONNX Runtime" in printed


def test_mistakes_are_told_in_a_line(model, array, tmp_path, capsys):
    dynamic = tmp_path / "dynamic.onnx"
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    onnx.save_model(model_of([node], {"x": [1, "h", "w"]}, ["y"]), dynamic)
    text = tmp_path / "text.npy"
    text.write_text("no array")
    for arguments, message in (
        (["run", str(model)], "expected either pictures or --input"),
        (["run", str(model), str(text)], "no readable picture"),
        (["run", str(model), "--input", str(text)], "no readable .npy file"),
        (["run", str(dynamic), "--input", str(array)], "x: got shape (2, 3, 12, 12)"),
        (["run", str(tmp_path / "absent.onnx"), "--input", str(array)], "absent.onnx"),
        (["show", str(dynamic)], "--shape: got none, expected that of x"),
        (["show", str(model), "--shape", "1x2x3", "--shape", "1"], "--shape: got 2, expected 1"),
        (["show", str(text)], "not a readable ONNX file"),
    ):
        assert main(arguments) == 1
        told = capsys.readouterr().err
        assert message in told.replace("\n", " ") and told.startswith("lowerconv: error: ")
    with pytest.raises(SystemExit):
        main(["show", str(model), "--shape", "wide"])
    assert "expected a shape such as 1x3x224x224" in capsys.readouterr().err
