"""``lowerconv quantize`` as a user calls it, and what other commands do with its file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv import quant
from lowerconv.cli.main import main
from lowerconv.data import load
from lowerconv.train import CheckpointError, Classifier, Trainer
from lowerconv.train.progress import Reporter


@pytest.fixture(scope="module")
def data(tiny_fashion) -> str:
    return f"fashion-mnist:{tiny_fashion}"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    Trainer("lenet", data, out, reporter=Reporter(), epochs=4).fit()
    return out / "best.safetensors"


@pytest.fixture(scope="module")
def quantized(trained, data) -> Path:
    path = trained.with_name("q.safetensors")
    assert main(["quantize", str(trained), "--data", data, "--out", str(path)]) == 0
    return path


def test_the_file_is_a_classifier(trained, quantized, data):
    before, after = Classifier(trained), Classifier(quantized)
    assert after.inputs == before.inputs
    assert (after.epoch, after.averaged) == (before.epoch, before.averaged)
    assert isinstance(after.network, quant.IntegerNetwork)
    _, test = load(data)
    images = test.images
    expected, found = before.probabilities(images), after.probabilities(images)
    assert np.abs(found - expected).max() < 0.05
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.95
    assert quantized.stat().st_size < trained.stat().st_size / 6  # that has velocities, too


def test_evaluate_and_predict_take_it(quantized, data, tmp_path, capsys):
    loss, accuracy = Classifier(quantized).evaluate(load(data)[1])
    assert main(["evaluate", str(quantized), "--data", data]) == 0
    assert f"test accuracy {accuracy:.2%}, loss {loss:.4f}, over 52" in capsys.readouterr().out
    _, test = load(data)
    Image.fromarray(test.images[0, 0]).save(tmp_path / "a.png")
    assert main(["predict", str(quantized), str(tmp_path / "a.png")]) == 0
    classifier = Classifier(quantized)
    best = classifier.inputs.classes[int(classifier.probabilities(test.images[:1]).argmax())]
    assert best in capsys.readouterr().out.splitlines()[1]


def test_options_reach_the_network(trained, data, tmp_path, capsys):
    path = tmp_path / "q.safetensors"
    command = ["quantize", str(trained), "--data", data, "--out", str(path), "--images", "30"]
    more = ["--method", "entropy", "--skip-first", "--skip-last", "--weight-bits", "6"]
    assert main([*command, *more]) == 0
    said = capsys.readouterr().out
    network = quant.load(path)
    kinds = [type(layer).__name__ for layer in network.float_layers.values()]
    assert "Conv2d" in kinds and "Linear" in kinds
    assert "integer convolutions; in float32: " in said and str(path) in said
    name = next(name for name, layer in network.modules() if type(layer).__name__ == "Linear")
    assert main([*command, "--exclude", name, "--strict"]) == 0
    assert name in capsys.readouterr().out


def test_it_writes_onnx(trained, quantized, data, tmp_path):
    pytest.importorskip("onnx", reason="writes ONNX files")
    import lowerconv.onnx

    path = tmp_path / "q.onnx"
    assert main(["quantize", str(trained), "--data", data, "--out", str(path)]) == 0
    x = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)
    expected = quant.load(quantized)(x)
    assert np.abs(lowerconv.onnx.load(path)(x) - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize(
    "more, message",
    [
        (["--images", "0"], "--images: got 0"),
        (["--out", "q.bin"], "--out: got q.bin"),
        (["--weight-bits", "9"], "weight_bits: got 9"),
        (["--percentile", "0"], "percentile: got 0"),
        (["--exclude", "conv9"], "exclude: got 'conv9', expected names among "),
    ],
)
def test_mistakes_are_told(trained, data, more, message, capsys, tmp_path):
    command = ["quantize", str(trained), "--data", data, "--out", str(tmp_path / "q.safetensors")]
    assert main([*command, *more]) == 1
    assert message in capsys.readouterr().err


def test_a_quantized_network_is_not_quantized_again(quantized, data, capsys, tmp_path):
    out = str(tmp_path / "q.safetensors")
    assert main(["quantize", str(quantized), "--data", data, "--out", out]) == 1
    assert "net: got an IntegerNetwork" in capsys.readouterr().err


def test_files_that_are_no_classifiers(quantized, tmp_path):
    network = quant.load(quantized)
    network.metadata = {}
    path = tmp_path / "q.safetensors"
    network.save(path)
    with pytest.raises(CheckpointError, match="does not tell what images"):
        Classifier(path)
    with pytest.raises(TypeError, match="network: got a IntegerNetwork, expected none"):
        Classifier(quantized, network)
    content = bytearray(quantized.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        Classifier(path)
