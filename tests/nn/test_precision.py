"""Networks that store bf16 or fp16: near those of float32, in half the memory, always the same."""

import copy
import pickle
from itertools import product

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn
from lowerconv.nn.computed import Computed
from lowerconv.nn.conv_pieces import Pass, pieces_of
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.frame import HalfTensor, Tensor
from lowerconv.nn.models import MODELS
from lowerconv.nn.normalise import Normalise
from lowerconv.nn.pointwise import Pointwise

from ..long import drawn
from .graphs import RandomNetwork

KINDS = ("bf16", "fp16")
kinds = pytest.mark.parametrize("kind", KINDS)
NEAR = {"bf16": 0.02, "fp16": 0.0025}  # of the norm: some roundings to 8 and 11 bits


def train(network, x, precision, seed=5):
    """Return result, gradients of all parameters, and of the input, of a step of training."""
    network.precision = precision
    results = network.run(x, nn.Step(training=True, seed=3, number=2, input_grad=True))
    results = results if isinstance(results, tuple) else (results,)
    kept = [result.copy() for result in results]
    rng = np.random.default_rng(seed)
    dx = network.backward(*(rng.standard_normal(r.shape).astype(np.float32) for r in results))
    gradients = {name: p.grad.copy() for name, p in network.parameters().items()}
    return kept, gradients | {"x": dx.copy()}


def distance(found, expected, least=1e-3):
    """Return the norm of the difference over that of what is expected, at least `least`."""
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), least))


def check_near(network, x, kind, near):
    """Compare a step with that of float32."""
    state = {name: array.copy() for name, array in network.buffers().items()}
    expected = train(network, x, "float32")
    for name, array in network.buffers().items():
        array[...] = state[name]
    found = train(network, x, kind)
    for one, other in zip(found[0], expected[0], strict=True):
        assert one.dtype == np.float32
        assert distance(one, other) < near
    # That of a bias before batch norm is nothing but rounding.
    least = 0.1 * max(np.linalg.norm(gradient) for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        assert distance(found[1][name], gradient, least) < near, name


def normals(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Meeting(nn.Module):
    """A layer between others, so that all around it is stored in 16 bits."""

    def __init__(self, layer, features=6):
        super().__init__()
        self.before, self.layer = nn.Conv2d(3, 6, 3, padding=1), layer
        self.after = nn.Conv2d(features, 4, 1)

    def forward(self, x):
        value = self.before(x)
        return self.after(self.layer(value) if isinstance(self.layer, nn.Module) else value)


LAYERS = {
    "relu": nn.ReLU,
    "norm-relu": lambda: nn.Sequential(nn.BatchNorm2d(6), nn.ReLU()),
    "norm": lambda: nn.BatchNorm2d(6),
    "lrn": lambda: nn.LocalResponseNorm(5, 0.1, 0.75),
    "max-pool": lambda: nn.MaxPool2d(3, 2, 1),
    "max-pool-overlaps": lambda: nn.MaxPool2d(3, 1, 1),
    "avg-pool": lambda: nn.AvgPool2d(3, 2, 1),
    "global": nn.GlobalAvgPool2d,
    "dropout": lambda: nn.Dropout(0.4),
    "silu": lambda: Pointwise("silu"),
    "conv-relu": lambda: nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
    "conv-strided": lambda: nn.Conv2d(6, 6, 3, 2, 1, bias=False),
    "conv-grouped": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=3),
    "depthwise": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    # converted before and after
    "transposed": lambda: ConvTranspose2d(6, 6, 2, 2),
    "layer-norm": lambda: Normalise((1, 2, 3), 1e-5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, rng):
    for kind in drawn(rng, KINDS, 1):
        check_layer(name, kind)


def check_layer(name, kind):
    network = Meeting(LAYERS[name]())
    network.initialize(np.random.default_rng(2))
    # Of pixels that are nearly the same another one may win, or have another sign.
    often = 15 if name.startswith("max-pool") else 4 if "relu" in name else 1
    check_near(network, normals(4, 3, 12, 13), kind, often * NEAR[kind])


def test_random_networks(rng):
    """Values with many readers, in place, side by side, in parts of others."""
    for seed, kind in drawn(rng, product(range(6), KINDS), 5):
        print(seed, kind)
        network = RandomNetwork(700 + seed, nodes=10, dtype=np.float32)
        network.initialize(np.random.default_rng(seed))
        check_near(network, normals(3, 3, 9, 10), kind, 12 * NEAR[kind])


@kinds
def test_many_pieces(kind, monkeypatch):
    """Images one by one are as all together: but for the order of sums of filters' gradients."""
    x = normals(5, 3, 12, 13)
    network = Meeting(LAYERS["conv-relu"]())
    network.initialize(np.random.default_rng(2))
    whole = train(network, x, kind)
    monkeypatch.setattr("lowerconv.nn.conv_pieces.BYTES", 1)
    pieces = train(copy.deepcopy(network), x, kind)
    assert np.array_equal(whole[0][0], pieces[0][0])
    for name, gradient in whole[1].items():
        np.testing.assert_allclose(pieces[1][name], gradient, rtol=2e-4, atol=2e-4, err_msg=name)


def test_pieces_are_all_images():
    for N in (0, 1, 2, 7, 32, 33):
        for image in (0, 1, 1 << 20, 1 << 22, 1 << 30):
            pieces = pieces_of(N, image)
            assert sum(piece.images for piece in pieces) == N
            assert [p.first for p in pieces] == list(
                np.cumsum([0, *(p.images for p in pieces)])[:-1]
            )
            assert len({piece.images for piece in pieces}) <= 2


@kinds
@pytest.mark.parametrize("model", ["cifar10_quick", "resnet20"])
def test_losses_are_near(model, kind):
    """A few steps of training: the losses of float32, to what rounding does."""
    x, labels = normals(8, 3, 32, 32), np.random.default_rng(3).integers(0, 10, 8)
    losses = {}
    for precision in ("float32", kind):
        network = MODELS[model].build()
        network.initialize(np.random.default_rng(1))
        network.precision = precision
        optimizer = nn.SGD(network, 3e-4, 0.9)
        scaling = nn.LossScale(2.0**10)
        optimizer.scale_loss(scaling)
        losses[precision] = found = []
        for number in range(4):
            scores = network.run(x, nn.Step(training=True, number=number))
            loss = nn.softmax_cross_entropy(scores, labels)
            scaling.scale([loss.gradient])
            network.backward(loss.gradient)
            optimizer.step()
            found.append(loss.loss)
    print(losses)
    assert losses["float32"][-1] < 0.98 * losses["float32"][0]
    np.testing.assert_allclose(losses[kind], losses["float32"], rtol=0.02)


@kinds
def test_bits_are_those_of_any_number_of_threads(kind):
    network = RandomNetwork(702, nodes=10, dtype=np.float32)
    network.initialize(np.random.default_rng(4))
    x = normals(5, 3, 20, 21)
    buffers = {name: array.copy() for name, array in network.buffers().items()}
    found = []
    before = lc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            lc.set_num_threads(threads)
            for name, array in network.buffers().items():
                array[...] = buffers[name]
            results, gradients = train(network, x, kind)
            arrays = [*results, *gradients.values(), *network.buffers().values()]
            found.append(b"".join(array.tobytes() for array in arrays))
    finally:
        lc.set_num_threads(before)
    assert len(set(found)) == 1


@kinds
@pytest.mark.parametrize("model", ["resnet20", "googlenet"])
def test_memory_of_a_step(model, kind):
    network = MODELS[model].build()
    shape = (32, 3, 32, 32) if model == "resnet20" else (32, 3, 224, 224)
    whole = network.memory_report(shape)
    network.precision = kind
    half = network.memory_report(shape)
    print(whole, half, sep="\n")
    assert half.activations < 0.52 * whole.activations
    assert half.arena < 0.6 * whole.arena


@kinds
def test_inference(kind):
    """Called, run and compiled: near float32, results of float32."""
    network = MODELS["resnet20"].build()
    network.initialize(np.random.default_rng(6))
    x = normals(3, 3, 32, 32)
    expected = network(x)
    network.precision = kind
    for found in (network(x), network.run(x), network.compile(x.shape)(x)):
        assert found.dtype == np.float32
        assert 0 < distance(found, expected) < 2 * NEAR[kind]
    network.precision = "float32"
    assert np.array_equal(network(x), expected)


def test_copies_keep_it():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    network.precision = "bf16"
    x = normals(2, 3, 8, 8)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.precision == "bf16"
        assert np.array_equal(other(x), network(x))


def test_what_is_converted_and_what_is_not():
    network = Meeting(nn.Sequential(LAYERS["transposed"](), LAYERS["norm-relu"]()))
    network.precision = "bf16"
    network.run(normals(2, 3, 6, 6), nn.Step(training=True))
    frames = {frame.name: frame for _, frame in network._use.own.execution.current.steps}
    converted = {name for name, frame in frames.items() if frame.conversions is not None}
    assert converted == {"layer.0 ConvTranspose2d"}
    assert isinstance(frames["before Conv2d"].prepared["forward"], Pass)
    assert type(frames["after Conv2d"].y) is Tensor
    assert isinstance(frames["after Conv2d"].x, HalfTensor)


def test_layers_that_numpy_computes():
    """What a layer knows nothing of is converted: NumPy never sees codes."""

    class Computes(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.after = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 2, 1)

        def forward(self, x):
            square = Computed("square", np.square, lambda dy, y, v: (2 * v * dy,))
            return self.after(square(self.before(x)))

    check_near(Computes(), normals(2, 3, 7, 8), "fp16", NEAR["fp16"])


def test_floats_of_16_bits_are_no_array():
    tensor = HalfTensor((2, 3), np.dtype(np.uint16))
    tensor.place(np.array([0x3F80] * 6, np.uint16))
    assert np.array_equal(tensor.values(), np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="array: got a tensor of 16-bit floats"):
        tensor.array  # noqa: B018


def test_errors():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    network.precision = "half"
    with pytest.raises(ValueError, match=r"^precision: got 'half', expected one of 'float32', 'bf"):
        network(normals(2, 3, 8, 8))
    doubles = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=np.float64), nn.Conv2d(4, 2, 1))
    doubles.precision = "fp16"
    with pytest.raises(ValueError, match=r"^precision: got 'fp16' with numbers of float64 in 0 "):
        doubles(normals(2, 3, 8, 8).astype(np.float64))


def test_where_it_diverged_is_found():
    """In a network whose activations are codes."""
    from lowerconv.nn.divergence import describe_divergence

    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    network.precision = "fp16"
    network.parameters()["0.weight"].data[...] = 1e5  # too large for fp16
    text = describe_divergence(network, np.ones((1, 3, 2, 2), np.float32), nn.Step(True), np.nan)
    assert "layer '0 Conv2d' is the first whose output holds inf" in text
