"""Networks in their quantization-aware form: which layers, how many bits, and what is refused."""

import copy
import pickle

import numpy as np
import pytest

from lowerconv import nn, quant
from lowerconv.nn.models import MODELS, resnet20
from lowerconv.quant.fake_quant import FakeQuantLayer, QuantLinear
from lowerconv.quant.fixed_point import RoundedOperand
from lowerconv.quant.learned_step import LearnedStep, LearnedStepWeights
from lowerconv.quant.ternary import TernaryWeights

SEED = 4
FORMS = {
    "bits": {"weight_bits": 4, "activation_bits": 3},
    "weights": {"weight_bits": 2, "weight_steps": "filter"},
    "activations": {"activation_bits": 4},
    "ternary": {"ternary_weights": True, "activation_bits": 8},
    "fixed-point": {"fixed_point": (4, 12)},
}
forms = pytest.mark.parametrize("form", FORMS)


def network() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )
    net.initialize(np.random.default_rng(SEED))
    return net


def images(count: int = 6) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((count, 3, 6, 6)).astype(np.float32)


def trained(net: nn.Module, steps: int = 2) -> nn.Module:
    optimizer = nn.SGD(net, lr=0.05, momentum=0.9)
    for number in range(steps):
        scores = net.run(images(), nn.Step(training=True, number=number))
        net.backward(nn.softmax_cross_entropy(scores, np.arange(6) % 5).gradient)
        optimizer.step()
    return net


def layers(net: nn.Module) -> dict[str, FakeQuantLayer]:
    return {name: layer for name, layer in net.modules() if isinstance(layer, FakeQuantLayer)}


def test_first_and_last_layers_have_eight_bits():
    net = quant.prepare(network(), weight_bits=4, activation_bits=3, weight_steps="filter")
    found = layers(net)
    assert list(found) == ["0", "2.0", "4", "6"]
    for name, layer in found.items():
        assert isinstance(layer.weight_quantizer, LearnedStepWeights)
        assert isinstance(layer.input, LearnedStep)
        bits = layer.weight_quantizer.bits, layer.input.bits
        assert bits == ((8, 8) if name in ("0", "6") else (4, 3)), name
        assert layer.weight_step.data.shape == (len(layer.weight.data),)


def test_ternary_weights_between_first_and_last():
    found = layers(quant.prepare(network(), ternary_weights=True))
    kinds = [type(layer.weight_quantizer) for layer in found.values()]
    assert kinds == [LearnedStepWeights, TernaryWeights, TernaryWeights, LearnedStepWeights]
    assert all(layer.input is None for layer in found.values())


def test_fixed_point_rounds_every_operand():
    found = layers(quant.prepare(network(), fixed_point=(4, 12), gradient_fixed_point=(-2, 18)))
    for layer in found.values():
        assert layer.weight_quantizer is None
        assert isinstance(layer.input, RoundedOperand)
        assert (str(layer.input.values), str(layer.input.gradients)) == ("<4, 12>", "<-2, 18>")


@pytest.mark.parametrize("name", ["lenet", "cifar10_quick", "nin", "resnet20", "googlenet"])
def test_the_last_layer_of_a_model_makes_its_scores(name):
    net = MODELS[name].build()
    expected = [n for n, m in net.modules() if type(m) in (nn.Conv2d, nn.Linear)]
    found = layers(quant.prepare(net, weight_bits=2))
    assert list(found) == expected
    last = list(found.values())[-1]
    assert last.weight_quantizer.bits == 8
    assert len(last.weight.data) == MODELS[name].classes


@forms
def test_parameters_keep_their_names_and_arrays(form):
    net = network()
    before = net.parameters()
    assert quant.prepare(net, **FORMS[form]) is net
    after = net.parameters()
    for name, parameter in before.items():
        assert after[name] is parameter
    assert all(name.endswith("step") for name in set(after) - set(before))


@forms
def test_weights_that_are_computed_with(form):
    net = trained(quant.prepare(network(), **FORMS[form]))
    levels = {"bits": 16, "weights": 4, "ternary": 3}.get(form)
    for layer in list(layers(net).values())[1:-1]:
        plain = layer.as_constant()
        if levels is None:
            assert plain is layer
            continue
        assert type(plain) in (nn.Conv2d, nn.Linear)
        for row in plain.weight.data if form != "bits" else [plain.weight.data]:
            assert 1 < len(np.unique(row)) <= levels


@forms
def test_a_compiled_network_computes_the_same(form):
    """Without batch norm, which is folded: a number between two steps may go the other way then."""
    net = trained(quant.prepare(network(), **FORMS[form]))
    x = images()
    np.testing.assert_allclose(net.compile(x.shape)(x), net(x), rtol=1e-5, atol=1e-5)


@forms
@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_compute_and_learn_the_same(form, how):
    net = trained(quant.prepare(network(), **FORMS[form]))
    twin = how(net)
    np.testing.assert_array_equal(twin(images()), net(images()))
    before = net(images())
    after = trained(twin)(images())
    np.testing.assert_array_equal(net(images()), before)
    np.testing.assert_array_equal(trained(net)(images()), after)


@forms
def test_weights_are_saved_and_loaded(form, tmp_path):
    net = trained(quant.prepare(network(), **FORMS[form]))
    net.save(tmp_path / "net.safetensors")
    other = quant.prepare(network(), **FORMS[form])
    other.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(other(images()), net(images()))


def test_initialize_draws_steps_that_suit_the_weights():
    net = quant.prepare(network(), weight_bits=4, activation_bits=4)
    trained(net)
    net.initialize(np.random.default_rng(9))
    for layer in layers(net).values():
        first = layer.weight_quantizer.first_steps(layer.weight.data)
        np.testing.assert_array_equal(layer.weight_step.data, first)
        assert not layer.input.step.data


def test_a_shared_layer_stays_shared():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.two = self.one
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.two(x))

    net = quant.prepare(Twice(), weight_bits=4)
    assert net.one is net.two
    assert isinstance(net.one, QuantLinear)


def test_residual_networks_train():
    net = quant.prepare(resnet20((3, 8, 8)), weight_bits=4, activation_bits=4)
    x = np.random.default_rng(SEED).standard_normal((10, 3, 8, 8)).astype(np.float32)
    optimizer, losses = nn.SGD(net, lr=0.05, momentum=0.9), []
    for number in range(8):
        loss = nn.softmax_cross_entropy(
            net.run(x, nn.Step(training=True, number=number)), np.arange(10)
        )
        losses.append(loss.loss)
        net.backward(loss.gradient)
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 9}, "weight_bits: got 9, expected at least 2 and at most 8"),
        ({"activation_bits": 1}, "activation_bits: got 1, expected at least 2 and at most 8"),
        ({"weight_bits": 4, "ternary_weights": True}, "ternary_weights: got True with weight_bits"),
        (
            {"weight_bits": 4, "fixed_point": (4, 12)},
            r"fixed_point: got \(4, 12\) with weight_bits",
        ),
        ({"activation_bits": 4, "fixed_point": (4, 12)}, "fixed_point: .* with activation_bits 4"),
        ({"ternary_weights": True, "fixed_point": (4, 12)}, "fixed_point: .* with ternary_weights"),
        ({"weight_steps": "filter"}, "weight_steps: got 'filter' without weight_bits"),
        ({"rounding": "nearest"}, "rounding: got 'nearest' without fixed_point"),
        ({"gradient_fixed_point": (4, 12)}, "gradient_fixed_point: got .* without fixed_point"),
        ({"weight_bits": 4, "weight_steps": "row"}, "weight_steps: got 'row', expected one of"),
        ({"fixed_point": (4,)}, r"fixed_point: got \(4,\), expected IL,FL"),
        ({"fixed_point": (20, 12)}, r"fixed_point: got \(20, 12\), expected IL and FL, together 2"),
        (
            {"fixed_point": (4, 12), "gradient_fixed_point": (1, 0)},
            r"gradient_fixed_point: got \(1, 0\), expected",
        ),
        ({}, "quantization: got no bits, expected some"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(options, message):
    net = network()
    before = net.parameters()
    with pytest.raises(ValueError, match=f"^{message}"):
        quant.prepare(net, **options)
    assert net.parameters() == before


def test_networks_that_cannot_be_prepared():
    with pytest.raises(ValueError, match=r"^network: 0 is quantized already"):
        quant.prepare(quant.prepare(network(), weight_bits=4), weight_bits=4)
    with pytest.raises(ValueError, match=r"^network: got a Linear itself"):
        quant.prepare(nn.Linear(3, 3), weight_bits=4)
    with pytest.raises(ValueError, match=r"^network: got none with a Conv2d or Linear"):
        quant.prepare(nn.Sequential(nn.ReLU()), weight_bits=4)
    with pytest.raises(TypeError, match=r"^network: got int, expected a Module"):
        quant.prepare(3, weight_bits=4)
    with pytest.raises(TypeError, match=r"^quantization: got one and weight_bits"):
        quant.prepare(network(), quant.Quantization(weight_bits=4), weight_bits=4)


def test_words():
    words = [quant.Quantization(**options).words() for options in FORMS.values()]
    assert words == [
        "4-bit weights, 3-bit activations",
        "2-bit weights with steps of each filter",
        "4-bit activations",
        "ternary weights, 8-bit activations",
        "fixed point <4, 12>, stochastic rounding",
    ]
    other = {"gradient_fixed_point": (-2, 18), "rounding": "nearest"}
    assert quant.Quantization(fixed_point=(4, 12), **other).words() == (
        "fixed point <4, 12>, gradients <-2, 18>, nearest rounding"
    )
