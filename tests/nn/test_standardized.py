"""Layer norm that is spelt out is found again, and nothing else is taken for it."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn import functional as F
from lowerconv.nn.functional.reductions import Reduction
from lowerconv.nn.normalise import Normalise
from lowerconv.nn.recording import make_graph

SEED = 20261127
SHAPE = (2, 5, 12)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Spelt(nn.Module):
    """A module of one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.returns_all = True

    def forward(self, *values):
        return self.function(*values)


def layers(function, dtype=np.float32, shape=SHAPE):
    graph = make_graph(Spelt(function), shape, dtype, False, True)
    return [type(node.layer) for node in graph.nodes]


def exact(x, axes=(-1,), eps=1e-5):
    x = x.astype(np.float64)
    centred = x - x.mean(axes, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps)


def number(value, dtype=np.float32):
    return np.asarray(value, dtype)


def spelt(
    *, square="pow", quotient="div", twice=False, swapped=False, axes=(-1,), eps=1e-5, root="sqrt"
):
    """Return layer norm as a file may have it."""

    def function(x):
        kind = x.dtype
        centred = F.arithmetic("sub", x, F.reduce("mean", x, axes, True))
        other = F.arithmetic("sub", x, F.reduce("mean", x, axes, True)) if twice else centred
        if square == "pow":
            squares = F.arithmetic("pow", other, number(2, kind))
        else:
            squares = F.arithmetic("mul", other, other)
        variance = F.reduce("mean", squares, axes, True)
        pair = (number([eps], kind), variance) if swapped else (variance, number(eps, kind))
        shifted = F.arithmetic("add", *pair)
        if root == "sqrt":
            deviation = F.pointwise(shifted, "sqrt")
        else:
            deviation = F.arithmetic("pow", shifted, number(0.5, kind))
        if quotient == "div":
            return F.arithmetic("div", centred, deviation)
        inverse = F.pointwise(deviation, "reciprocal")
        pair = (inverse, centred) if quotient == "mul" else (centred, inverse)
        return F.arithmetic("mul", *pair)

    return function


def result(function, x):
    return Spelt(function).compile(x.shape)(x)


FORMS = [
    {},
    {"square": "mul"},
    {"quotient": "mul"},
    {"quotient": "mul2", "swapped": True},
    {"twice": True, "square": "mul"},
    {"twice": True, "quotient": "mul", "root": "pow"},
    {"axes": (-2, -1)},
    {"axes": (1,), "swapped": True},
    {"eps": 0.25},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_is_found(form):
    x = np.random.default_rng(SEED).standard_normal(SHAPE).astype(np.float32)
    assert layers(spelt(**form)) == [Normalise]
    expected = exact(x, form.get("axes", (-1,)), form.get("eps", 1e-5))
    np.testing.assert_allclose(result(spelt(**form), x), expected, atol=2e-6)


@dtypes
def test_scale_and_shift_are_its_own(dtype):
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal(SHAPE).astype(dtype)
    scale, shift, more = (rng.standard_normal(SHAPE[-1]).astype(dtype) for _ in range(3))

    def function(x):
        y = F.arithmetic("mul", scale, spelt()(x))
        y = F.arithmetic("add", y, shift[None, None])
        return F.arithmetic("sub", y, more)

    assert layers(function, dtype) == [Normalise]
    expected = exact(x) * scale + shift - more
    network = Spelt(function)
    np.testing.assert_allclose(network(x), expected, atol=1e-5 if dtype == np.float32 else 1e-13)


@pytest.mark.parametrize(
    "constant",
    [(5, 12), (2, 5, 12), (5, 1), (12, 1, 1), (2, 1, 1, 1)],
    ids=str,
)
def test_other_constants_are_not_its_scale(constant):
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((12, 5, 12) if constant[0] == 12 else SHAPE).astype(np.float32)
    scale = rng.standard_normal(constant).astype(np.float32)

    def function(x):
        return F.arithmetic("mul", spelt()(x), scale)

    assert len(layers(function, shape=x.shape)) == 2
    np.testing.assert_allclose(result(function, x), exact(x) * scale, atol=1e-5)


def test_who_else_reads_what_is_between():
    x = np.random.default_rng(SEED).standard_normal(SHAPE).astype(np.float32)

    def function(x):
        mean = F.reduce("mean", x, (-1,), True)
        centred = F.arithmetic("sub", x, mean)
        variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
        deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
        return F.arithmetic("div", centred, deviation), deviation, centred

    normal, deviation, centred = Spelt(function)(x)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(normal, exact(x), atol=2e-6)
    np.testing.assert_allclose(centred, wide - wide.mean(-1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(deviation[..., 0], np.sqrt(wide.var(-1) + 1e-5), rtol=1e-6)


def other_axes(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("div", centred, deviation)


def not_centred(x):
    variance = F.reduce("mean", F.arithmetic("mul", x, x), (-1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("div", x, deviation)


def of_another(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    other = F.pointwise(x, "abs")
    other = F.arithmetic("sub", other, F.reduce("mean", other, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", other, other), (-1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("div", centred, deviation)


def no_mean(x):
    centred = F.arithmetic("sub", x, F.reduce("max", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("div", centred, deviation)


def summed(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("sum", F.arithmetic("mul", centred, centred), (-1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("div", centred, deviation)


def turned(x):
    centred = F.arithmetic("sub", F.reduce("mean", x, (-1,), True), x)
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("div", centred, deviation)


def many_epsilons(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    shifted = F.arithmetic("add", variance, np.linspace(1, 2, 5, dtype=np.float32)[:, None])
    return F.arithmetic("div", centred, F.pointwise(shifted, "sqrt"))


def computed_epsilon(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    shifted = F.arithmetic("add", variance, F.pointwise(F.reduce("max", x, (-1,), True), "abs"))
    return F.arithmetic("div", centred, F.pointwise(shifted, "sqrt"))


def scaled_variance(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    shifted = F.arithmetic("add", F.arithmetic("mul", variance, number(1.5)), number(1e-5))
    return F.arithmetic("div", centred, F.pointwise(shifted, "sqrt"))


def no_root(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    return F.arithmetic("div", centred, F.arithmetic("add", variance, number(1e-5)))


def upside_down(x):
    centred = F.arithmetic("sub", x, F.reduce("mean", x, (-1,), True))
    variance = F.reduce("mean", F.arithmetic("mul", centred, centred), (-1,), True)
    deviation = F.pointwise(F.arithmetic("add", variance, number(1e-5)), "sqrt")
    return F.arithmetic("mul", centred, deviation)


OTHERS = [
    *(other_axes, not_centred, of_another, no_mean, summed, turned, many_epsilons),
    *(computed_epsilon, scaled_variance, no_root, upside_down),
]


@pytest.mark.parametrize("function", OTHERS)
def test_nothing_else_is_taken_for_it(function):
    x = np.random.default_rng(SEED).standard_normal((2, 5, 12)).astype(np.float32)
    found = layers(function)
    assert Normalise not in found
    assert Reduction in found
    # Of arrays NumPy computes at once what values record.
    expected = function(x.astype(np.float64))
    np.testing.assert_allclose(Spelt(function)(x), expected, rtol=2e-5, atol=2e-5)


def test_in_training_too():
    rng = np.random.default_rng(SEED)
    x, dy = (rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2))
    step = nn.Step(training=True, input_grad=True)
    found = []
    for function in (spelt(), lambda x: F.normalize(x, (-1,), 1e-5)):
        network = Spelt(function)
        network.run(x, step)
        found.append(network.backward(dy))
    np.testing.assert_array_equal(*found)
