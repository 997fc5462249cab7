"""Fixed point in networks and optimizers: formats, what is rounded, and by what it is drawn."""

from itertools import pairwise

import numpy as np
import pytest

from lowerconv import nn, quant
from lowerconv.quant.fixed_point import FixedPoint, RoundedOperand, RoundedUpdates
from lowerconv.runtime.threads import get_num_threads, set_num_threads

SEED = 20150209
FORM = FixedPoint(4, 6)


def on_grid(values: np.ndarray, form: FixedPoint) -> bool:
    steps = values.astype(np.float64) * 2.0**form.fraction_bits
    half = 2.0 ** (form.integer_bits + form.fraction_bits - 1)
    return bool((steps == np.rint(steps)).all() and steps.min() >= -half and steps.max() < half)


@pytest.mark.parametrize("bits", [(1, 0), (13, 12), (-70, 80)], ids=str)
def test_formats_that_float32_has_not_are_refused(bits):
    with pytest.raises(ValueError, match=r"^got \(.*\), expected IL and FL, together 2 to 24 bits"):
        FixedPoint(*bits)


@pytest.mark.parametrize("bits", [(12, 12), (1, 1), (-2, 18), (20, -4)], ids=str)
def test_all_numbers_of_a_format_are_float32(bits):
    form = FixedPoint(*bits)
    values = np.array([1e30, -1e30, 0.3, 2.0**-30], np.float32)
    form.round(values)
    assert on_grid(values, form)
    assert str(form) == f"<{bits[0]}, {bits[1]}>"


def test_operands_and_gradients_are_rounded():
    rng = np.random.default_rng(SEED)
    layer = RoundedOperand(FORM, FixedPoint(0, 12), stochastic=True)
    x, dy = rng.standard_normal((5, 40)), 0.1 * rng.standard_normal((5, 40))
    y = layer.run(x, nn.Step(training=True, input_grad=True, seed=1, number=2)).copy()
    dx = layer.backward(dy)
    assert on_grid(y, FORM)
    assert on_grid(dx, FixedPoint(0, 12))
    assert (np.abs(y - x) < 2.0**-6).all()
    assert (np.abs(dx - dy) < 2.0**-12).all()
    assert (y > x).any() and (y < x).any()


def test_what_is_drawn_depends_on_seed_step_and_direction():
    x = np.full((4, 100), 0.5 * 2.0**-6, np.float32)
    layer = RoundedOperand(FORM, FORM, stochastic=True)
    found = set()
    for seed, number in ((1, 1), (1, 2), (2, 1)):
        y = layer.run(x, nn.Step(True, seed, number, input_grad=True))
        found.add(y.tobytes())
        found.add(layer.backward(x).tobytes())
    assert len(found) == 6
    again = layer.run(x, nn.Step(True, 1, 1))
    assert again.tobytes() in found


def test_nodes_of_a_network_draw_differently():
    one, two = (RoundedOperand(FORM, FORM, stochastic=True) for _ in range(2))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x):
            return nn.concat(self.one(x), self.two(x))

    y = Both().run(np.full((1, 100), 0.5 * 2.0**-6, np.float32), nn.Step(training=True))
    assert (y[:, :100] != y[:, 100:]).any()


def test_inference_rounds_to_the_nearest():
    x = np.random.default_rng(SEED).standard_normal((4, 100)).astype(np.float32)
    y = RoundedOperand(FORM, FORM, stochastic=True).run(x)
    assert (np.abs(y - x) <= 0.5 * 2.0**-6).all()


def test_shares_of_a_batch_draw_as_the_whole():
    x = np.random.default_rng(SEED).standard_normal((7, 3, 5, 5)).astype(np.float32)
    layer = RoundedOperand(FORM, FORM, stochastic=True)
    whole = layer.run(x, nn.Step(training=True)).copy()
    parts = [
        layer.run(x[first:last], nn.Step(training=True, first_sample=first)).copy()
        for first, last in ((0, 3), (3, 4), (4, 7))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def network(dtype=np.float32) -> nn.Module:
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, dtype=dtype),
        nn.BatchNorm2d(4, dtype=dtype),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, dtype=dtype),
        nn.Flatten(),
        nn.Linear(16, 5, dtype=dtype),
    )
    made.initialize(np.random.default_rng(SEED))
    return made


def train(bits: quant.Quantization, threads: int = 2, steps: int = 3) -> tuple[nn.Module, bytes]:
    """Return a trained network, and all its parameters."""
    kept = get_num_threads()
    try:
        set_num_threads(threads)
        net = quant.prepare(network(), bits)
        optimizer = nn.SGD(net, lr=0.05, momentum=0.9)
        optimizer.rounding = bits.rounded_updates(seed=3)
        x = np.random.default_rng(SEED).standard_normal((8, 3, 6, 6)).astype(np.float32)
        for number in range(steps):
            scores = net.run(x, nn.Step(training=True, seed=3, number=number))
            loss = nn.softmax_cross_entropy(scores, np.arange(8) % 5)
            net.backward(loss.gradient)
            optimizer.step()
        return net, optimizer.data.tobytes()
    finally:
        set_num_threads(kept)


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
def test_all_parameters_are_fixed_point_numbers_after_an_update(rounding):
    bits = quant.Quantization(fixed_point=(4, 10), rounding=rounding)
    net, _ = train(bits)
    for name, parameter in net.parameters().items():
        assert on_grid(parameter.data, FixedPoint(4, 10)), name
        assert on_grid(parameter.grad, FixedPoint(4, 10)), name


def test_training_is_the_same_on_any_number_of_threads():
    bits = quant.Quantization(fixed_point=(4, 10))
    assert len({train(bits, threads)[1] for threads in (1, 2, 3)}) == 1
    nearest = quant.Quantization(fixed_point=(4, 10), rounding="nearest")
    assert train(bits)[1] != train(nearest)[1]


def test_an_update_in_ranges_is_that_of_the_whole():
    found = []
    for cuts in ((0, 10), (0, 3, 4, 10)):
        layer = nn.Linear(9, 1)
        layer.weight.data[...], layer.bias.data[...] = 0.25, 0
        optimizer = nn.SGD(layer, lr=0.1)
        optimizer.rounding = RoundedUpdates(FORM, FORM, True, seed=5)
        optimizer.grad[:] = np.linspace(-1, 1, 10)
        optimizer.begin_step()
        for begin, end in pairwise(cuts):
            optimizer.update(begin, end)
        found.append(optimizer.data.tobytes() + optimizer.grad.tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("stochastic", [True, False])
def test_small_updates_are_lost_to_the_nearest_and_made_on_average(stochastic):
    """1000 updates of a tenth of a step, of 1000 weights: 100 steps, or none."""
    print(f"seed {SEED}")
    layer = nn.Linear(1000, 1, bias=False)
    layer.weight.data[...] = 0
    optimizer = nn.SGD(layer, lr=0.1)
    optimizer.rounding = RoundedUpdates(FixedPoint(8, 6), FixedPoint(8, 6), stochastic, seed=SEED)
    for _ in range(1000):
        optimizer.grad[:] = -(2.0**-6)
        optimizer.step()
    steps = layer.weight.data * 2.0**6
    if not stochastic:
        assert not steps.any()
        return
    # Each is a sum of 1000 draws with a chance of a tenth: 9.5 is one of its standard deviations.
    assert abs(steps.mean() - 100) < 5 * 9.5 / np.sqrt(1000)
    assert 8 < steps.std() < 11
