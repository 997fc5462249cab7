"""Front and back of a network, one after the other, are the network."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.models.googlenet import GoogLeNet
from lowerconv.parallel.sharding.cut import borders, cut_network, default_border

from ..networks import NETWORKS, make


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def whole_step(network, x, step, seed):
    """Return results, their gradients, that of the input, and those of all parameters."""
    results = [r.copy() for r in as_tuple(network.run(x, step))]
    rng = np.random.default_rng(seed)
    gradients = [rng.standard_normal(r.shape).astype(r.dtype) for r in results]
    dx = network.backward(*gradients).copy()
    return results, gradients, dx, {n: p.grad.copy() for n, p in network.parameters().items()}


def check(network, border, x):
    step = nn.Step(True, 3, 4, 2, input_grad=True)
    results, gradients, dx, expected = whole_step(network, x, step, 9)
    for parameter in network.parameters().values():
        parameter.grad[...] = np.nan
    front, back = cut_network(network, border, x.shape[1:])
    assert {*front.parameters()} | {*back.parameters()} == {*network.parameters()}
    assert {*front.parameters()}.isdisjoint(back.parameters())
    assert front.parameters().items() | back.parameters().items() == network.parameters().items()
    v, *before = as_tuple(front.run(x, step))
    got = dict(zip(front.auxiliary, before, strict=True))
    behind = as_tuple(back.run(v.copy(), step))
    got |= dict(zip(back.results, behind, strict=True))
    assert sorted(got) == list(range(len(results)))
    for number, result in enumerate(results):
        np.testing.assert_array_equal(got[number], result)
    dv = back.backward(*(gradients[i] for i in back.results))
    mine = front.backward(dv, *(gradients[i] for i in front.auxiliary))
    np.testing.assert_allclose(mine, dx, rtol=1e-6, atol=1e-8)
    for name, parameter in (front.parameters() | back.parameters()).items():
        np.testing.assert_allclose(parameter.grad, expected[name], 1e-6, 1e-8, err_msg=name)
    np.testing.assert_array_equal(back(front(x)), network(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_border(name):
    network = make(name)
    x = np.random.default_rng(1).standard_normal((3, *network.image_shape))
    names = borders(network, network.image_shape)
    assert network.border in names
    for border in names:
        check(network, border, x)


def test_googlenet_with_its_heads():
    network = GoogLeNet((3, 80, 80), 7, dtype=np.float64)
    network.initialize(np.random.default_rng(2))
    x = np.random.default_rng(1).standard_normal((2, 3, 80, 80))
    for border in ("inception3a", "aux1", "inception4c", "inception5b", "fc"):
        check(network, border, x)
    front, back = cut_network(network, "inception4c", (3, 80, 80))
    assert front.auxiliary == (1,)
    assert back.results == (0, 2)
    assert default_border(network, (3, 80, 80)) == "fc"


@pytest.mark.parametrize(("name", "border"), [("Plain", "7"), ("Unlearnt", "two")])
def test_default_border(name, border):
    network = make(name)
    assert default_border(network, network.image_shape) == border


def test_no_fully_connected_layer():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GlobalAvgPool2d(), nn.Flatten())
    with pytest.raises(ValueError, match="border: Sequential has no fully connected layer"):
        default_border(network, (1, 5, 5))


@pytest.mark.parametrize(
    ("border", "why"),
    [
        ("right.2", "but results of the network depend on more than what it reads"),
        ("stem", "before which there is nothing"),
        ("sideways", "which is no layer of the network"),
        ("", "which is no layer of the network"),
    ],
)
def test_what_is_no_border(border, why):
    network = make("Branches")
    with pytest.raises(ValueError, match=f"border: got '{border}', {why}; possible: left, "):
        cut_network(network, border, network.image_shape)


def test_a_layer_that_is_not_used():
    network = make("Heads")
    network.unused = nn.Linear(3, 4)
    front, _ = cut_network(network, "third", network.image_shape)
    assert "unused.weight" in front.parameters()
    with pytest.raises(ValueError, match="which the network does not use"):
        cut_network(network, "unused", network.image_shape)


def test_image_of_another_size():
    network = make("Plain")
    _, back = cut_network(network, "4", network.image_shape)
    with pytest.raises(ValueError, match=r"got shape \(2, 7, 5, 4\), expected that of the border"):
        back.run(np.zeros((2, 7, 5, 4)))
