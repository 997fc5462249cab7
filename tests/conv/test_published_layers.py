"""The layers of published networks, all passes, against the loop nest in float64."""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.bench.cases import layers

from ..long import drawn

LAYERS = {
    f"{network}-{layer.name}": layer
    for network in ("googlenet", "cifar10_quick", "alexnet_owt")
    for layer in layers(network)
}
SEED, PARTS = 20160224, 3


# Of one network after the other, so that some of each are in every part.
@pytest.mark.parametrize("part", range(PARTS))
def test_every_algorithm_and_pass(part, rng):
    for name in drawn(rng, list(LAYERS)[part::PARTS], 3):
        print(name)
        check_layer(LAYERS[name])


def check_layer(layer):
    rng = np.random.default_rng(SEED)
    options = {"stride": layer.stride, "padding": layer.padding}
    x, w = rng.standard_normal(layer.x_shape(1)), rng.standard_normal(layer.w_shape)
    y = lc.conv2d(x, w, **options, algorithm="direct")
    dy = rng.standard_normal(y.shape)
    dx = lc.conv2d_input_grad(dy, w, x.shape, **options, algorithm="direct")
    dw = lc.conv2d_weight_grad(dy, x, w.shape, **options, algorithm="direct")
    x32, w32, dy32 = (array.astype(np.float32) for array in (x, w, dy))
    problem = lc.plan_conv2d(x.shape, w.shape, **options).problem
    for algorithm in (*lc.algorithms(problem), "auto"):
        options["algorithm"] = algorithm
        for name, found, exact in (
            ("forward", lc.conv2d(x32, w32, **options), y),
            ("input_grad", lc.conv2d_input_grad(dy32, w32, x.shape, **options), dx),
            ("weight_grad", lc.conv2d_weight_grad(dy32, x32, w.shape, **options), dw),
        ):
            error = np.abs(found - exact).max() / np.abs(exact).max()
            assert error < 1e-5, f"{algorithm} {name}: {error:.1e}"
