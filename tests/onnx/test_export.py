"""Networks written as ONNX files: ONNX Runtime, or the reference evaluator, gives the same."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="writes ONNX files")

import lowerconv.onnx  # noqa: E402
from lowerconv import nn  # noqa: E402
from lowerconv.nn import functional as F  # noqa: E402
from lowerconv.nn.computed import Computed  # noqa: E402
from lowerconv.nn.conv_transpose import ConvTranspose2d  # noqa: E402
from lowerconv.nn.models import MODELS  # noqa: E402
from lowerconv.nn.pointwise import Pointwise  # noqa: E402
from lowerconv.nn.resize import Resize, taps  # noqa: E402
from lowerconv.nn.step import Step  # noqa: E402
from lowerconv.ops.pointwise import FUNCTIONS  # noqa: E402

from .networks import small_model  # noqa: E402


def elsewhere(path, x: np.ndarray) -> np.ndarray:
    """Return what another library makes of a file."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        wrong = {"LRN", "ConvTranspose"} & {n.op_type for n in onnx.load(str(path)).graph.node}
        if wrong:
            pytest.skip(f"the reference evaluator of onnx is wrong for {wrong}: onnxruntime")
        return ReferenceEvaluator(str(path)).run(None, {"x": x})[0]
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0]


def same(net: nn.Module, shape: tuple[int, ...], path) -> None:
    """Check that a file gives what the network does, elsewhere and here."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = net(x)
    net.save_onnx(path, shape)
    onnx.checker.check_model(str(path), full_check=True)
    for result in (elsewhere(path, x), lowerconv.onnx.load(path)(x)):
        np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


@pytest.mark.parametrize("name", ["lenet", "cifar10_quick", "nin", "resnet20", "googlenet"])
def test_models_of_the_package(name, tmp_path):
    model = MODELS[name]
    C, H, W = model.image_shape
    size = (C, min(H, 96), min(W, 96))
    same(model.build(image_shape=size, classes=7), (2, *size), tmp_path / "net.onnx")


class OddlyEvaluated(nn.Module):
    """Layers for whose operators the reference evaluator is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.up = ConvTranspose2d(3, 4, 3, 2, 1, 1)
        self.norm = nn.LocalResponseNorm(3)

    def forward(self, x, **_):
        return self.norm(self.up(x))


class AllLayers(nn.Module):
    """Every other layer that is in none of the models."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=((0, 1), (2, 1)), dilation=(1, 2))
        self.dropout = nn.Dropout(0.3)
        self.size = Resize(
            taps(5, 7, 1.4, "linear", "half_pixel"), taps(7, 9, 9 / 7, "cubic", "half_pixel")
        )
        self.average = nn.AvgPool2d(3, 2, 1, ceil_mode=True)

    def forward(self, x, **_):
        y = self.dropout(self.conv(x))
        y = F.arithmetic("mul", y, np.full((4, 1, 1), 1.5, np.float32))
        y = F.arithmetic("sub", np.ones((1, 4, 1, 1), np.float32), y)
        y = self.average(self.size(F.arithmetic("max", y, F.pointwise(y, "abs"))))
        return F.softmax(F.transpose(y, (0, 2, 3, 1)), 3)


@pytest.mark.parametrize("network", [AllLayers, OddlyEvaluated])
def test_every_layer(network, tmp_path):
    same(network(), (2, 3, 11, 14), tmp_path / "net.onnx")


class AllFunctions(nn.Module):
    def forward(self, x, **_):
        x = F.affine(F.pointwise(x, "sigmoid"), 2.0, 0.25)  # positive, for logarithms
        values = [Pointwise(name)(x) for name in sorted(FUNCTIONS)]
        values += [Pointwise("silu", 1.5)(x), Pointwise("softplus", 2.0)(x)]
        values += [Pointwise("clip", None, 1.0)(x), Pointwise("clip", 0.5)(x)]
        values += [Pointwise("elu", 1.5, 2.0)(F.affine(x, -1.0, 1.0))]
        return nn.concat(*values)


def test_every_function_of_one_number(tmp_path):
    same(AllFunctions(), (2, 1, 5, 6), tmp_path / "net.onnx")


def test_layers_without_a_form_are_told(tmp_path):
    class Odd(nn.Module):
        def forward(self, x, **_):
            return Computed("sorted", np.sort)(x)

    with pytest.raises(ValueError, match="layers: got sorted, which have no form in ONNX"):
        Odd().save_onnx(tmp_path / "net.onnx", (2, 3))


def test_what_a_file_has_learnt_is_written(tmp_path):
    rng = np.random.default_rng(0)
    model = small_model(rng)
    onnx.helper.set_model_props(model, {"classes": "one\ntwo"})
    net = lowerconv.onnx.load(model, trainable=True)
    x = rng.standard_normal((2, 3, 12, 12)).astype(np.float32)
    before = net(x)
    net.run(x, Step(training=True))
    net.backward(np.eye(2, 5, dtype=np.float32))
    for parameter in net.parameters().values():
        parameter.data -= np.float32(0.1) * parameter.grad
    y = net(x)
    assert not np.allclose(y, before)
    net.save_onnx(tmp_path / "net.onnx")
    for result in (
        elsewhere(tmp_path / "net.onnx", x),
        lowerconv.onnx.load(tmp_path / "net.onnx")(x),
    ):
        np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-5)
    assert lowerconv.onnx.load(tmp_path / "net.onnx").metadata == {"classes": "one\ntwo"}
