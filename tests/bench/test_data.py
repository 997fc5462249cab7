"""Shapes and published figures, as data."""

from lowerconv.bench import published
from lowerconv.bench.cases import layers, networks
from lowerconv.bench.passes import compulsory_bytes, flops, problem


def test_every_case_is_a_convolution():
    assert len(networks()) >= 8
    for network in networks():
        found = layers(network)
        assert len({layer.name for layer in found}) == len(found) > 2, network
        shapes = {(layer.x_shape(1), layer.w_shape, layer.arguments) for layer in found}
        assert network == "googlenet" or len(shapes) == len(found), network
        for layer in found:
            assert problem(layer, 2).flops > 0


def test_cases_have_pairs_and_groups():
    (wide,) = (layer for layer in layers("odd") if layer.name == "wide-1x15")
    assert wide.padding == (0, 7)
    assert wide.arguments == ((1, 1), (0, 7), (1, 1), 1)
    (grouped,) = (layer for layer in layers("odd") if layer.name == "resnext-3x3")
    assert grouped.w_shape == (128, 4, 3, 3)
    assert layers("googlenet")[0].published == {"seed_speedup": 1.27}


def test_published_figures():
    assert len(layers("googlenet")) == 20
    speedups = [layer.published["seed_speedup"] for layer in layers("googlenet")]
    assert (min(speedups), max(speedups)) == (0.03, 2.04)
    libraries = {entry.library: entry for entry in published.alexnet()}
    assert libraries["Torch-7 (im2col + GEMM)"][1:] == (132, 210, 342)
    for entry in libraries.values():
        assert abs(entry.forward + entry.backward - entry.total) <= 1, entry
    assert published.claim("convolution_share") == 0.84
    assert published.claim("two_cpus_gain") == 1.64


def test_work_and_traffic_of_a_layer():
    conv3 = layers("cifar10_quick")[2]  # 32 channels of 8x8, 64 filters of 5x5
    work = 2 * 7 * 64 * 8 * 8 * 32 * 5 * 5
    assert flops(conv3, 7) == flops(conv3, 7, "weight_grad") == work
    assert flops(conv3, 7, "backward") == 2 * work
    x, w, y = 7 * 32 * 8 * 8, 64 * 32 * 5 * 5, 7 * 64 * 8 * 8
    assert compulsory_bytes(conv3, 7, "forward") == 4 * (x + w + y)
    # dy, w and x are read, dx and dw written.
    assert compulsory_bytes(conv3, 7, "backward") == 4 * (y + w + x + x + w)
