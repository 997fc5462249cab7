"""Layers with learnt steps: against NumPy, and by differences where the rounding is held fixed.

Straight through, a rounded number is ``s (v / s + c)`` with a constant ``c``, what the rounding
has added to ``v / s``: that has the gradients of the paper, and differences of it can be taken.
"""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn, quant
from lowerconv.quant.learned_step import LearnedStep, LearnedStepWeights
from lowerconv.runtime.threads import get_num_threads, set_num_threads

SEED = 20200219
STEP = nn.Step(training=True, input_grad=True)


class Held:
    """A rounding, with the parts that are lost as they were for some numbers."""

    def __init__(self, v, s, low, high):
        self.low, self.high = low, high
        q = np.clip(v / s, low, high)
        self.lost = np.rint(q) - q

    def __call__(self, v, s):
        return s * (np.clip(v / s, self.low, self.high) + self.lost)


def prepared(layer, **bits):
    """Return the quantized form of a layer, between others that have the 8 bits of the ends."""
    net = nn.Sequential(nn.Linear(1, 1), layer, nn.Linear(1, 1))
    quant.prepare(net, **bits)
    return net[1]


def slope(function, array, place):
    kept, h = array[place], 1e-6 * max(1.0, abs(array[place]))
    array[place] = kept + h
    above = function()
    array[place] = kept - h
    below = function()
    array[place] = kept
    return (above - below) / (2 * h)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("by", ["tensor", "filter"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_gradients(bits, by, kind):
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    if kind == "conv":
        layer: nn.Layer = nn.Conv2d(3, 4, 3, padding=1, dtype=np.float64)
        x = rng.standard_normal((2, 3, 5, 6))
    else:
        layer, x = nn.Linear(7, 4, dtype=np.float64), rng.standard_normal((5, 7))
    layer = prepared(layer, weight_bits=bits, activation_bits=bits, weight_steps=by)
    layer.initialize(rng)
    y = layer.run(x, STEP)
    dy = rng.standard_normal(y.shape)
    dx = layer.backward(dy).copy()
    w, sw, sx = layer.weight.data, layer.weight_step.data, layer.input.step.data
    assert sw.shape == ((4,) if by == "filter" else (1,))
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    np.testing.assert_allclose(sx, 2 * np.abs(x).mean() / np.sqrt(high))
    wide = (-1,) + (1,) * (w.ndim - 1)
    means = np.abs(w.reshape(4, -1)).mean(1 if by == "filter" else None)
    np.testing.assert_allclose(sw, 2 * means / np.sqrt(high))
    rounded_w, rounded_x = Held(w, sw.reshape(wide), low, high), Held(x, sx, low, high)

    def loss():
        a, b = rounded_x(x, sx), rounded_w(w, sw.reshape(wide))
        product = lc.conv2d(a, b, padding=1) if kind == "conv" else a @ b.T
        return float((product * dy).sum())

    bias = layer.bias.data.reshape((1, -1) + (1,) * (y.ndim - 2))
    assert loss() + float((bias * dy).sum()) == pytest.approx(float((y * dy).sum()), rel=1e-12)
    # What the gradients of steps are scaled with: items of a step, of a sample.
    scales = {
        "weight_step": 1 / np.sqrt(w.size / len(sw) * high),
        "input.step": 1 / np.sqrt(x[0].size * high),
    }
    found = {name: parameter.grad for name, parameter in layer.parameters().items()}
    arrays = {"x": x, "weight": w, "weight_step": sw, "input.step": sx}
    for name, array in arrays.items():
        gradient = dx if name == "x" else found[name] / scales.get(name, 1)
        places = {tuple(rng.integers(0, array.shape)) for _ in range(12)}
        for place in places:
            expected = slope(loss, array, place)
            np.testing.assert_allclose(gradient[place], expected, rtol=1e-6, atol=1e-7)


def test_the_step_of_what_is_clipped_has_a_derivative():
    """There the rounded numbers are ends of the range, ``s`` times a constant."""
    layer = prepared(nn.Linear(6, 3, dtype=np.float64), weight_bits=3)
    rng = np.random.default_rng(SEED)
    layer.weight.data[...] = np.where(rng.standard_normal((3, 6)) > 0, 9, -9)
    layer.weight_step.data[...] = 0.5
    x, dy = rng.standard_normal((4, 6)), rng.standard_normal((4, 3))
    layer.run(x, STEP)
    layer.backward(dy)
    expected = slope(
        lambda: float((layer.run(x) * dy).sum()), layer.weight_step.data, (0,)
    ) / np.sqrt(18 * 3)
    np.testing.assert_allclose(layer.weight_step.grad, expected, rtol=1e-6)
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_a_step_does_not_count(sign):
    layer = prepared(nn.Linear(6, 3, dtype=np.float64), weight_bits=4, activation_bits=4)
    rng = np.random.default_rng(SEED)
    layer.initialize(rng)
    x, dy = rng.standard_normal((4, 6)), rng.standard_normal((4, 3))
    kept = layer.run(x, STEP).copy()
    layer.backward(dy)
    steps = layer.weight_step, layer.input.step
    slopes = [step.grad.copy() for step in steps]
    for step in steps:
        step.data *= sign
    np.testing.assert_array_equal(layer.run(x, STEP), kept)
    layer.backward(dy)
    for step, before in zip(steps, slopes, strict=True):
        np.testing.assert_array_equal(step.grad, sign * before)


def test_the_first_batch_of_training_gives_the_step():
    layer = LearnedStep(4, np.dtype(np.float64))
    x = np.random.default_rng(SEED).standard_normal((3, 5))
    np.testing.assert_array_equal(layer.run(x), x)  # it has not come yet
    assert not layer.step.data
    layer.run(x, nn.Step(training=True))
    first = layer.step.data.copy()
    assert first == pytest.approx(2 * np.abs(x).mean() / np.sqrt(7))
    assert len(np.unique(layer.run(x))) < x.size
    layer.run(5 * x, nn.Step(training=True))
    assert layer.step.data == first
    layer.initialize(np.random.default_rng())
    assert not layer.step.data


class Others:
    """Ranks that have another part of the batch."""

    def __init__(self, *parts: float) -> None:
        self.parts = parts

    def sum_numbers(self, *numbers: float) -> tuple[float, ...]:
        return tuple(a + b for a, b in zip(numbers, self.parts, strict=True))

    def sum_array(self, array: np.ndarray) -> None:
        raise NotImplementedError


def test_ranks_begin_with_the_step_of_the_whole_batch():
    layer, x = LearnedStep(4, np.dtype(np.float64)), np.ones((0, 5))
    layer.run(x, nn.Step(training=True, communicator=Others(30.0, 10.0)))
    assert layer.step.data == pytest.approx(2 * 3 / np.sqrt(7))


def test_gradients_of_shares_of_a_batch_add_up():
    def net():
        made = nn.Sequential(
            nn.Conv2d(3, 4, 3, dtype=np.float64),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, dtype=np.float64),
            nn.Flatten(),
            nn.Linear(16, 5, dtype=np.float64),
        )
        made.initialize(np.random.default_rng(SEED))
        return quant.prepare(made, weight_bits=3, activation_bits=3)

    rng = np.random.default_rng(SEED)
    x, dy = rng.standard_normal((7, 3, 6, 6)), rng.standard_normal((7, 5))
    whole = net()
    whole.run(x, STEP)
    whole.backward(dy)
    sums: dict[str, np.ndarray] = {}
    for part in (slice(0, 2), slice(2, 7)):
        share = net()
        share.run(x, STEP)  # for the first steps
        share.run(x[part], STEP)
        share.backward(dy[part])
        for name, parameter in share.parameters().items():
            sums[name] = sums.get(name, 0) + parameter.grad
    for name, parameter in whole.parameters().items():
        np.testing.assert_allclose(sums[name], parameter.grad, rtol=1e-10, atol=1e-12)


class Mixed(nn.Module):
    """Values that may be negative, and such that cannot."""

    def __init__(self):
        super().__init__()
        self.image = LearnedStep(4, np.dtype(np.float32))
        self.relu = LearnedStep(4, np.dtype(np.float32))
        self.pooled = LearnedStep(4, np.dtype(np.float32))
        self.joined = LearnedStep(4, np.dtype(np.float32))
        self.sum = LearnedStep(4, np.dtype(np.float32))

    def forward(self, x):
        a = nn.relu(self.image(x))
        b = nn.MaxPool2d(2)(a)
        c = nn.concat(b, nn.AvgPool2d(2)(x))
        d = a + x
        return nn.concat(
            *(nn.flatten(y) for y in (self.relu(a), self.pooled(b), self.joined(c), self.sum(d)))
        )


def test_values_after_a_relu_take_no_sign():
    net = Mixed()
    net.run(np.ones((1, 2, 4, 4), np.float32))
    found = {name: part.range for name, part in net.modules() if isinstance(part, LearnedStep)}
    signed, unsigned = (-8, 7), (0, 15)
    assert found == {
        "image": signed,
        "relu": unsigned,
        "pooled": unsigned,
        "joined": signed,
        "sum": signed,
    }


def test_a_training_step_is_the_same_on_any_number_of_threads():
    kept, found = get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            layer = LearnedStep(4, np.dtype(np.float32))
            x = np.random.default_rng(SEED).standard_normal((3, 5, 70, 70)).astype(np.float32)
            y = layer.run(x, STEP)
            dx = layer.backward(np.cos(y))
            found.append(y.tobytes() + dx.tobytes() + layer.step.grad.tobytes())
    finally:
        set_num_threads(kept)
    assert len(set(found)) == 1


def test_weights_that_are_all_zero_stay_so():
    weights = LearnedStepWeights(4)
    zeros = np.zeros((2, 3), np.float32)
    assert not weights.first_steps(zeros).any()
    result = np.ones_like(zeros)
    weights.quantize(zeros, weights.first_steps(zeros), result)
    assert not result.any()
