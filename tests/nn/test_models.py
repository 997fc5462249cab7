"""The models: their shapes, their sizes, and that a seed decides their weights."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.models import MODELS, cifar10_quick, lenet


def convolutions(network, image_shape):
    """Return (C, H, W, K, R, S) of each convolution, as met by one image."""
    met, x = [], np.zeros((1, *image_shape), np.float32)
    for layer in network.children().values():
        if isinstance(layer, nn.Conv2d):
            K, _, R, S = layer.weight.data.shape
            met.append((*x.shape[1:], K, R, S))
        x = layer(x)
    return met


def test_cifar10_quick_has_the_published_shapes():
    assert convolutions(cifar10_quick(), (3, 32, 32)) == [
        (3, 32, 32, 32, 5, 5),
        (32, 16, 16, 32, 5, 5),
        (32, 8, 8, 64, 5, 5),
    ]


def test_parameter_counts():
    def size(network):
        return sum(p.data.size for p in network.parameters().values())

    assert size(cifar10_quick()) == 145_578
    assert size(lenet()) == 431_080


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (3, 33, 47)], ids=str)
def test_models_take_any_image(name, image_shape):
    net = MODELS[name].build(image_shape, 7)
    assert net(np.ones((2, *image_shape), np.float32)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_decides_the_weights(name):
    first, second, other = (MODELS[name].build((1, 28, 28), 10) for _ in range(3))
    for network, seed in ((first, 1), (second, 1), (other, 2)):
        network.initialize(np.random.default_rng(seed))
    for key, parameter in first.parameters().items():
        assert np.array_equal(parameter.data, second.parameters()[key].data)
    assert not np.array_equal(
        first.parameters()["0.weight"].data, other.parameters()["0.weight"].data
    )
