"""The models: their shapes, their sizes, and that a seed decides their weights."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.graph import Graph
from lowerconv.nn.init import undrawn
from lowerconv.nn.models import MODELS

CLASSES = 7


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("lenet", {}, 431_080),
        ("cifar10_quick", {}, 145_578),
        ("nin", {}, 966_986),
        ("alexnet", {}, 61_100_840),
        ("vgg11", {}, 132_863_336),
        ("vgg16", {}, 138_357_544),
        ("vgg16", {"batch_norm": True}, 138_365_992),
        ("googlenet", {}, 13_378_280),
        ("googlenet", {"auxiliary": False}, 6_998_552),
        ("googlenet", {"batch_norm": True}, 13_004_888),
        ("googlenet", {"batch_norm": True, "auxiliary": False}, 6_624_904),
        ("resnet20", {}, 272_474),
        ("resnet56", {}, 855_770),
        ("resnet18", {}, 11_689_512),
        ("resnet50", {}, 25_557_032),
        ("inception_v3", {}, 27_161_264),
        ("inception_v3", {"auxiliary": False}, 23_834_568),
    ],
)
def test_parameter_counts_are_those_published(name, options, parameters):
    with undrawn():
        network = MODELS[name].build(**options)
    assert sum(p.data.size for p in network.parameters().values()) == parameters


def test_cifar10_quick_has_the_published_shapes():
    graph = Graph(MODELS["cifar10_quick"].build(), (1, 3, 32, 32), np.float32, training=False)
    assert [
        node.operands[0].shape[1:] + node.layer.weight.data.shape[:1]
        for node in graph.nodes
        if isinstance(node.layer, nn.Conv2d)
    ] == [(3, 32, 32, 32), (32, 16, 16, 32), (32, 8, 8, 64)]


LEAST = {
    "lenet": 16,
    "cifar10_quick": 12,
    "nin": 6,
    "alexnet": 63,
    "vgg11": 32,
    "vgg16": 32,
    "googlenet": 79,
    "inception_v3": 299,
}


@pytest.mark.parametrize("name", LEAST)
def test_images_too_small_are_refused(name):
    least = LEAST[name]
    with pytest.raises(
        ValueError,
        match=rf"image_shape: got \(3, {least + 9}, {least - 1}\), expected at least "
        rf"{least} x {least} pixels for {name}",
    ):
        MODELS[name].build((3, least + 9, least - 1))
    with undrawn():
        network = MODELS[name].build((3, least, least), CLASSES)
    graph = Graph(network, (2, 3, least, least), np.float32, training=True)
    assert all(value.shape == (2, CLASSES) for value in graph.results)


@pytest.mark.parametrize("image_shape", [(3, 32), (3, 0, 32), (3, 32, -1)])
def test_images_of_other_shapes_are_refused(image_shape):
    for name in MODELS:
        with pytest.raises(ValueError, match="image_shape: got"):
            MODELS[name].build(image_shape)


@pytest.mark.parametrize("name", ["lenet", "cifar10_quick", "resnet20"])
def test_a_seed_decides_the_weights(name):
    first, second, other = (MODELS[name].build() for _ in range(3))
    for network, seed in ((first, 1), (second, 1), (other, 2)):
        network.initialize(np.random.default_rng(seed))
    for key, parameter in first.parameters().items():
        assert np.array_equal(parameter.data, second.parameters()[key].data)
    key = next(iter(first.parameters()))
    assert not np.array_equal(first.parameters()[key].data, other.parameters()[key].data)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_tells_what_it_was_made_for(name):
    model = MODELS[name]
    assert model.classes in (10, 1000)
    assert len(model.image_shape) == 3


def test_undrawn_weights_are_zero_until_they_are_drawn():
    with undrawn():
        network = MODELS["lenet"].build()
    weights = [p.data for name, p in network.parameters().items() if name.endswith("weight")]
    assert not any(array.any() for array in weights)
    network.initialize(np.random.default_rng(0))
    assert all(array.all() for array in weights)
