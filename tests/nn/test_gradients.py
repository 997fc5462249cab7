"""Layers' backward steps against differences of their forward steps, in float64.

Of one layer at a time, and of two that read the same value.  Layers of several operands are met in
networks: `test_torch_twins` compares their gradients with PyTorch's.
"""

from functools import partial

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.pointwise import Pointwise
from lowerconv.ops.pointwise import FUNCTIONS

SEED = 20240229


def loss_of(layer: nn.Module, x: np.ndarray, weights: np.ndarray, step: nn.Step) -> float:
    return float((layer.run(x, step) * weights).sum())


def differences(function, array: np.ndarray, places: list[tuple[int, ...]]) -> list[float]:
    """Return the central differences of `function()` along some elements of `array`."""
    slopes, h = [], 1e-6
    for place in places:
        kept = array[place]
        array[place] = kept + h
        above = function()
        array[place] = kept - h
        below = function()
        array[place] = kept
        slopes.append((above - below) / (2 * h))
    return slopes


def check_gradients(layer: nn.Module, x: np.ndarray, training: bool = True) -> None:
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    step = nn.Step(input_grad=training, training=training, seed=3, number=5, first_sample=2)
    weights = rng.standard_normal(layer.run(x, step).shape)
    layer.run(x, step)
    dx = layer.backward(weights)
    assert dx is not None
    assert dx.shape == x.shape
    arrays = {"x": (x, dx.copy())}
    for name, parameter in layer.parameters().items():
        arrays[name] = parameter.data, parameter.grad.copy()
    for name, (array, gradient) in arrays.items():
        places = [tuple(rng.integers(0, array.shape)) for _ in range(12)]
        expected = differences(lambda: loss_of(layer, x, weights, step), array, places)
        found = [gradient[place] for place in places]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=name)


LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 4, 3, dtype=np.float64), (2, 3, 6, 7)),
    "conv-strided-grouped-no-bias": (
        lambda: nn.Conv2d(
            4, 6, (2, 3), stride=2, padding=1, groups=2, bias=False, dtype=np.float64
        ),
        (2, 4, 6, 7),
    ),
    "max-pool": (lambda: nn.MaxPool2d(2), (2, 3, 6, 8)),
    "max-pool-overlapping-ceil": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 6, 9)),
    "avg-pool": (lambda: nn.AvgPool2d(2), (2, 3, 6, 8)),
    "avg-pool-overlapping-ceil": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 3, 6, 9)),
    "avg-pool-without-padding-counted": (
        lambda: nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False),
        (2, 3, 6, 9),
    ),
    "linear": (lambda: nn.Linear(5, 4, dtype=np.float64), (3, 5)),
    "linear-no-bias": (lambda: nn.Linear(5, 1, bias=False, dtype=np.float64), (3, 5)),
    "batch-norm": (lambda: nn.BatchNorm2d(3, dtype=np.float64), (4, 3, 5, 4)),
    "response-norm": (lambda: nn.LocalResponseNorm(3, alpha=0.5, k=2.0), (2, 7, 4, 3)),
    "relu": (nn.ReLU, (3, 5, 4)),
    "flatten": (nn.Flatten, (3, 5, 2, 2)),
    "dropout": (lambda: nn.Dropout(0.4), (3, 50)),
    "sequential": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, dtype=np.float64),
            nn.ReLU(),
            nn.Sequential(nn.AvgPool2d(2), nn.Dropout(0.3)),
            nn.Flatten(),
            nn.Linear(12, 4, dtype=np.float64),
        ),
        (3, 2, 4, 4),
    ),
}
# Every function of one number, also those that are added to the library, with constants that show.
CONSTANTS = {"clip": (-0.5, 0.75), "silu": (1.5, 0.0), "softplus": (2.0, 0.0), "affine": (2.0, 3.0)}
LAYERS |= {
    f"function-{name}": (partial(Pointwise, name, *CONSTANTS.get(name, ())), (3, 5, 4))
    for name in sorted(FUNCTIONS)
}
POSITIVE = {"function-log", "function-sqrt", "function-reciprocal"}


class Sum(nn.Module):
    """Two layers of the same value, summed: the gradient of one is added to that of the other."""

    def __init__(self, first: nn.Layer, second: nn.Layer) -> None:
        super().__init__()
        self.first, self.second, self.add = first, second, nn.Add()

    def forward(self, *values: nn.Value) -> nn.Value:
        (x,) = values
        return self.add(self.first(x), self.second(x))


def images_of(name: str, rng: np.random.Generator) -> np.ndarray:
    shape = LAYERS[name][1]
    return rng.uniform(0.5, 2, shape) if name in POSITIVE else rng.standard_normal(shape)


@pytest.mark.parametrize("name", LAYERS)
def test_backward_is_the_derivative_of_forward(name):
    layer = LAYERS[name][0]()
    rng = np.random.default_rng(SEED + 1)
    layer.initialize(rng)
    check_gradients(layer, images_of(name, rng))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_two_readers_are_added(name):
    build = LAYERS[name][0]
    layer = Sum(build(), build())
    rng = np.random.default_rng(SEED + 2)
    layer.initialize(rng)
    check_gradients(layer, images_of(name, rng))


@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_network_computes_each_time(name):
    """Launches are replayed from the third time on: other numbers, and nothing is left out."""
    build, shape = LAYERS[name]
    network = nn.Sequential(Pointwise("abs"), build())  # what reads the input is never replayed
    rng = np.random.default_rng(SEED + 3)
    network.initialize(rng)
    infer = network.compile(shape)
    dtype = np.float64 if network.parameters() else np.float32
    for _ in range(5):
        x = rng.uniform(0.5, 2, shape).astype(dtype)
        np.testing.assert_allclose(infer(x), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_share_of_a_batch_passes_through(name):
    build, shape = LAYERS[name]
    layer = build()
    y = layer.run(np.empty((0, *shape[1:])), nn.Step(input_grad=True, training=True))
    assert y.shape[0] == 0
    dx = layer.backward(np.empty_like(y))
    assert dx is not None
    assert dx.shape == (0, *shape[1:])
    for parameter in layer.parameters().values():
        assert not parameter.grad.any()


def test_first_layer_returns_no_gradient_of_the_images():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    y = net.run(np.ones((1, 1, 4, 4), np.float32), nn.Step(training=True))
    assert net.backward(np.ones_like(y)) is None


def test_loss_gradient():
    rng = np.random.default_rng(SEED)
    scores, labels = rng.standard_normal((7, 5)), rng.integers(0, 5, 7)
    gradient = nn.softmax_cross_entropy(scores, labels).gradient
    places = [tuple(rng.integers(0, scores.shape)) for _ in range(12)]
    expected = differences(
        lambda: nn.softmax_cross_entropy(scores, labels).loss / 7, scores, places
    )
    np.testing.assert_allclose([gradient[p] for p in places], expected, rtol=1e-6, atol=1e-9)
