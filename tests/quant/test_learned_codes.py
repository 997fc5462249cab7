"""Networks that have learnt their steps become integer networks with these."""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn, quant
from lowerconv.quant.conv import IntegerConv2d
from tests.quant.networks import conv, images, make

FORMS = {
    "4-4": {"weight_bits": 4, "activation_bits": 4},
    "filters": {"weight_bits": 3, "activation_bits": 8, "weight_steps": "filter"},
    "weights": {"weight_bits": 4},
    "ternary": {"ternary_weights": True, "activation_bits": 8},
    "activations": {"activation_bits": 5},
}
forms = pytest.mark.parametrize("form", FORMS)


def plain() -> nn.Module:
    """Return a network of which all that is rounded has a step that is learnt."""
    net = nn.Sequential(
        *(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(8, 6), nn.ReLU(), conv(6, 5), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(5 * 3 * 4, 10), nn.ReLU(), nn.Linear(10, 5)),
    )
    net.initialize(np.random.default_rng(2))
    return net


def trained(net, form):
    """Return a network in that form with the steps, and the statistics, of a batch."""
    quant.prepare(net, **FORMS[form])
    for _, layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    for _ in range(2):
        net.run(images(), nn.Step(training=True))
    return net


@forms
def test_integers_are_what_was_learnt(form):
    net = trained(plain(), form)
    x = images(8, seed=9)
    expected, found = net(x), lc.quantize(net, images(), strict=True)(x)
    difference = np.abs(found - expected) / np.abs(expected).max()
    assert difference.mean() < 0.05
    if form not in ("weights", "activations"):  # of these a part has no learnt step, but 8 bits
        # But where a sum halfway between two steps went to the other one.
        assert np.median(difference) < 1e-3


@forms
@pytest.mark.parametrize("name", ["residual", "branches"])
def test_what_was_not_learnt_has_eight_bits(name, form):
    """Residuals and what is concatenated are read by convolutions with other steps."""
    net = trained(make(name), form)
    x = images(8, seed=9)
    expected, found = net(x), lc.quantize(net, images())(x)
    assert np.abs(found - expected).mean() < 0.03 * np.abs(expected).max()


@forms
def test_codes_of_weights_are_those_that_were_learnt(form):
    net = trained(make("chain"), form)
    integer = lc.quantize(net, images())
    found = dict(integer.modules())
    layers = dict(net.modules())
    rounded = {name: layers[name].as_constant().weight.data for name in ("4", "8")}
    for name, weight in rounded.items():
        layer = found[name]
        assert isinstance(layer, IntegerConv2d)
        filters = layer.filters
        codes = filters.unpacked
        scale = filters.scale.reshape(-1, *(1,) * (codes.ndim - 1))
        np.testing.assert_allclose(
            (codes * scale).reshape(weight.shape),
            weight,
            rtol=1e-6,
            atol=0 if form != "activations" else 1e-2,
        )
    most = {"4-4": 8, "filters": 4, "weights": 8, "ternary": 1, "activations": 127}[form]
    assert np.abs(found["4"].filters.unpacked.astype(int)).max() <= most
