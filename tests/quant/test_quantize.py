"""Integer networks: every layer exact, the whole as its float32 form with rounding in between."""

import copy
import importlib
import pickle
import re

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn, quant
from lowerconv.conv.problem import conv_problem
from lowerconv.nn.normalise import Softmax
from lowerconv.nn.pointwise import Pointwise
from lowerconv.quant.conv import IntegerConv2d
from lowerconv.quant.convert import WORD, Dequantize, Quantize
from lowerconv.quant.integer_layers import IntegerAdd, IntegerConcat, Lookup
from lowerconv.quant.observe import METHODS
from lowerconv.runtime.threads import get_num_threads
from tests.quant.integers import codes_of, epilogue, rounded, sums, words_of
from tests.quant.networks import NETWORKS, SHAPE, Net, conv, images, make

quantizing = importlib.import_module("lowerconv.quant.quantize")
names = pytest.mark.parametrize("name", NETWORKS)


@pytest.fixture(scope="module")
def made():
    """Return networks by name: float32, and of integers."""
    found = {}

    def get(name):
        if name not in found:
            net = make(name)
            found[name] = net, lc.quantize(net, images())
        return found[name]

    return get


def first(results):
    return results[0] if isinstance(results, tuple) else results


def relative(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@names
def test_it_computes_as_the_float_network_nearly(made, name):
    net, integer = made(name)
    x = images(8, seed=9)
    assert relative(first(integer(x)), first(net(x))) < 0.05


@names
def test_it_computes_what_quantize_and_dequantize_say(made, name, monkeypatch):
    """The graph before integers take their part is computed in float32, rounded by NumPy."""
    net, integer = made(name)
    monkeypatch.setattr(quantizing, "to_integers", lambda graph: None)
    plain = lc.quantize(net, images())
    assert any(type(layer).__name__ == "DequantizeLinear" for layer in plain.layers)
    x = images(8, seed=9)
    found, expected = first(integer(x)), first(plain(x))
    assert relative(found, expected) < 0.02  # a sum that is halfway between two steps may go on
    assert np.abs(found - expected).mean() < 2e-3 * np.abs(expected).max()


def check_convolution(layer, frame):
    """Compare the result of a layer with the oracle: bit for bit."""
    y, x = layer.epilogue, layer.x
    K, C = len(layer.filters.codes), layer.filters.codes.shape[1] * layer.geometry[3]
    N, _, H, W = frame.x.shape
    problem = conv_problem((N, C, H, W), layer.filters.codes.shape, *layer.geometry)
    given = codes_of(frame.x.array, C, x.dtype)
    totals = sums(given, layer.filters.codes, x.zero_point, problem)
    residual = None
    if y.residual is not None:
        step = np.float32(y.residual.scale / y.y.scale)
        added = codes_of(frame.xs[1].array, K, y.residual.dtype)
        residual = added, y.residual.zero_point, step
    numbers = epilogue(totals, *layer.scales(), residual)
    if y.y is None:
        expected = np.clip(numbers, *np.float32(layer.range or (-np.inf, np.inf)))
        assert np.array_equal(frame.y.array.reshape(numbers.shape), expected)
        return
    expected = rounded(numbers, 0, y.low, y.high, y.y.dtype)
    assert np.array_equal(codes_of(frame.y.array, K, y.y.dtype), expected)


@names
def test_every_convolution_is_exact(made, name):
    _, integer = made(name)
    seen = []

    def watch(layer, frame, what):
        if isinstance(layer, IntegerConv2d):
            check_convolution(layer, frame)
            seen.append(frame.name)

    handle = integer.register_watch(watch)
    integer.run(images(3, seed=9))
    handle.remove()
    assert len(seen) == sum(isinstance(layer, IntegerConv2d) for layer in integer.layers) > 1


def test_what_becomes_one_layer(made):
    _, integer = made("residual")
    kinds = [type(layer).__name__ for layer in integer.layers]
    assert kinds == ["Quantize", *["IntegerConv2d"] * 5, "IntegerAvgPool2d", "IntegerConv2d"]
    added = [layer.epilogue.residual is not None for layer in integer.layers[1:6]]
    assert added == [False, False, False, True, True]
    assert all(layer.epilogue.low == layer.epilogue.y.zero_point for layer in integer.layers[4:6])
    _, integer = made("functions")
    clipped = next(layer for layer in integer.layers if isinstance(layer, IntegerConv2d))
    assert clipped.epilogue.y.zero_point == 0
    assert sum(isinstance(layer, Lookup) for layer in integer.layers) == 2


def test_what_float_results_are_clipped_to(made):
    _, integer = made("clipped-numbers")
    convs = [layer for layer in integer.layers if isinstance(layer, IntegerConv2d)]
    assert [layer.range for layer in convs] == [(0, np.inf), (-0.1, 0.4), None, (0, np.inf)]
    (left,) = [layer for layer in integer.layers if isinstance(layer, (nn.ReLU, Pointwise))]
    assert (left.a, left.b) == (0, 0)


@pytest.mark.parametrize("name", ["branches", "odd-branches"])
def test_what_is_concatenated_has_one_scale(made, name):
    _, integer = made(name)
    (place,) = [i for i, layer in enumerate(integer.layers) if isinstance(layer, IntegerConcat)]
    read = integer.places[place].operands
    convs = [integer.layers[i - 1] for i in read if i]
    params = {layer.epilogue.y for layer in convs if isinstance(layer, IntegerConv2d)}
    assert len(read) == 4 and len(params) == 1
    assert integer.layers[place].is_concatenation == (name == "branches")
    assert not any(isinstance(layer, Lookup) for layer in integer.layers)


def test_sums_that_no_convolution_makes():
    def forward(net, x):
        y = nn.relu(net.a(x))
        return net.b(net.pool(y) + net.pool2(y))

    pools = {"pool": nn.MaxPool2d(3, 1, 1), "pool2": nn.AvgPool2d(3, 1, 1)}
    net = Net(forward, a=conv(3, 6), b=conv(6, 4), **pools)
    integer = lc.quantize(net, images(), strict=True)
    assert any(isinstance(layer, IntegerAdd) for layer in integer.layers)
    assert relative(integer(images(8)), net(images(8))) < 0.05


def test_response_norm_of_codes(made):
    net, integer = made("normed")
    kinds = [type(layer).__name__ for layer in integer.layers]
    assert kinds.count("IntegerResponseNorm") == 3
    assert kinds[0] == "Quantize" and {"Dequantize", "LocalResponseNorm"}.isdisjoint(kinds)
    assert relative(integer(images(8)), net(images(8))) < 0.05


def test_what_stays_in_float_is_between_explicit_steps(made):
    _, integer = made("between")
    kinds = [type(layer) for layer in integer.layers]
    at = kinds.index(Softmax)
    assert kinds[at - 1 : at + 2] == [Dequantize, Softmax, Quantize]
    assert [name.split("_")[0] for name in integer.float_layers] == ["soft", "ReLU"]
    assert not any(isinstance(layer, nn.MaxPool2d) for layer in integer.layers)
    z, positive = integer(images(2))
    assert np.array_equal(np.maximum(z, 0), positive)


@names
def test_any_batch_compiled_and_on_any_number_of_threads(made, name):
    _, integer = made(name)
    x = images(5, seed=11)
    expected = integer(x)
    for i in (0, 4):
        np.testing.assert_equal(first(integer(x[i : i + 1])), first(expected)[i : i + 1])
    compiled = integer.compile(x.shape)
    for _ in range(4):  # the third one is replayed
        np.testing.assert_equal(compiled(x), expected)
    threads = get_num_threads()
    try:
        for count in (1, 3):
            lc.set_num_threads(count)
            np.testing.assert_equal(integer(x), expected)
    finally:
        lc.set_num_threads(threads)


def test_images_of_another_size(made):
    net, integer = made("branches")
    x = np.random.default_rng(3).standard_normal((2, 3, 30, 25)).astype(np.float32)
    assert relative(integer(x), net(x)) < 0.05


def test_activations_are_words_in_one_arena(made):
    net, integer = made("branches")
    x_shape = (4, *SHAPE)
    words = integer.memory_report(x_shape)
    numbers = net.memory_report(x_shape, training=False)
    assert words.arena < numbers.arena / 2.5
    codes = sum(layer.filters.codes.size for layer in integer.layers if hasattr(layer, "filters"))
    assert codes <= words.parameters < 1.5 * codes + 500
    assert words.gradients == words.parameter_gradients == 0
    with pytest.raises(ValueError, match="training: got True"):
        integer.memory_report(x_shape, True)
    seen = []
    handle = integer.register_watch(lambda layer, frame, what: seen.append(frame.y.dtype))
    integer.run(images(1))
    handle.remove()
    assert seen.count(WORD) == len(seen) - 1


@names
def test_files_and_copies_are_the_same_network(made, name, tmp_path):
    _, integer = made(name)
    path = tmp_path / "q.safetensors"
    integer.metadata = {"about": ["anything", 1.5]}
    integer.save(path)
    x = images(2)
    expected = integer(x)
    read = quant.load(path)
    assert read.metadata == integer.metadata
    assert read.places == integer.places and repr(read) == repr(integer)
    for other in (read, copy.deepcopy(integer), copy.copy(integer)):
        np.testing.assert_equal(other(x), expected)
    if name != "between":  # its `forward` is a function of a function
        np.testing.assert_equal(pickle.loads(pickle.dumps(integer))(x), expected)


def test_damaged_files_are_refused(made, tmp_path):
    path = tmp_path / "q.safetensors"
    made("rows")[1].save(path)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(content), 60):
        broken = bytearray(content)
        broken[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            quant.load(path)
    nn.Sequential(nn.Linear(3, 2)).save(path)
    with pytest.raises(ValueError, match="'format' is 'pt', expected 'lowerconv integer"):
        quant.load(path)
    with pytest.raises(OSError, match="none"):
        quant.load(tmp_path / "none.safetensors")


# --- calibration and options ---


@pytest.mark.parametrize("method", METHODS)
def test_methods(made, method):
    net, _ = made("chain")
    x = images(seed=13)
    integer = lc.quantize(net, (x[i : i + 7] for i in range(0, 40, 7)), method=method)
    assert relative(integer(x), net(x)) < 0.1


def test_layers_that_the_user_leaves_out(made):
    net, _ = made("residual")
    x = images()
    integer = lc.quantize(net, x, skip_first=True, skip_last=True, exclude=["b"])
    kinds = dict(integer.modules())
    for name in ("stem", "b", "last"):
        assert isinstance(kinds[name], (nn.Conv2d, nn.Linear)), name
    assert isinstance(kinds["a"], IntegerConv2d)
    assert relative(integer(x), net(x)) < 0.05
    with pytest.raises(ValueError, match=r"exclude: got 'q', expected names among stem, a, "):
        lc.quantize(net, x, exclude=["q"])
    with pytest.raises(TypeError, match="exclude: got 'b', expected a list"):
        lc.quantize(net, x, exclude="b")


def test_strict_networks_compute_nothing_in_float(made):
    net, _ = made("between")
    with pytest.raises(ValueError, match=r"strict: got True, .*: soft \(Softmax\)"):
        lc.quantize(net, images(), strict=True)
    lc.quantize(made("chain")[0], images(), strict=True)
    lc.quantize(made("chain")[0], images(), strict=True, skip_first=True)


def test_fewer_bits_of_weights(made):
    net, eight = made("chain")
    four = lc.quantize(net, images(), weight_bits=4)
    codes = [layer.filters.codes for layer in four.layers if isinstance(layer, IntegerConv2d)]
    assert all(np.abs(c).max() == 7 for c in codes)
    x = images(seed=9)
    assert relative(eight(x), net(x)) < relative(four(x), net(x)) < 0.5


def test_the_network_stays_as_it_is(made):
    net = make("residual")
    before = {name: p.data.copy() for name, p in net.parameters().items()}
    expected = net(images(2))
    lc.quantize(net, images())
    for name, parameter in net.parameters().items():
        assert np.array_equal(parameter.data, before[name])
    assert np.array_equal(net(images(2)), expected)


def test_filters_of_zeros_and_large_biases():
    net = nn.Sequential(conv(3, 5), nn.ReLU(), conv(5, 2))
    net.initialize(np.random.default_rng(1))
    first_layer = net.children()["0"]
    first_layer.weight.data[1] = 0
    first_layer.weight.data[2] *= 1e-12
    first_layer.bias.data[:] = [0.1, 0.2, 0.3, 40, -0.2]
    integer = lc.quantize(net, images())
    assert relative(integer(images(4)), net(images(4))) < 0.05


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_bits": 9}, "weight_bits: got 9, expected at least 2 and at most 8"),
        ({"weight_bits": 1}, "weight_bits: got 1, expected"),
        ({"weight_bits": 4.0}, "weight_bits: got 4.0, expected int"),
        ({"method": "mse"}, "method: got 'mse', expected one of minmax, percentile, entropy"),
        ({"percentile": 101}, "percentile: got 101, expected"),
        ({"calibration": []}, "calibration: got no inputs"),
        ({"calibration": np.zeros((0, *SHAPE), np.float32)}, "calibration: got no inputs"),
        ({"calibration": None}, "calibration: got None, expected inputs"),
        ({"calibration": 5}, "calibration: got int, expected an array"),
        ({"calibration": "images"}, "calibration: got str, expected an array"),
        ({"calibration": [1]}, "calibration: got int, expected a numpy array"),
        ({"calibration": np.zeros((1, *SHAPE))}, "calibration: got float64"),
        ({"calibration": images() * np.float32(np.nan)}, "calibration: the input: got NaN"),
        ({"net": 3}, "net: got int, expected a Module"),
        ({"net": nn.ReLU()}, "net: got no Conv2d or Linear"),
    ],
)
def test_bad_requests_name_the_argument(options, message):
    arguments = {"net": make("chain"), "calibration": images(2)} | options
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        lc.quantize(arguments.pop("net"), arguments.pop("calibration"), **arguments)


def test_bad_inputs_are_told(made):
    _, integer = made("branches")
    with pytest.raises(TypeError, match="an IntegerNetwork, expected one in float32"):
        lc.quantize(integer, images())
    for x in (images().astype(np.float64), images()[:, :2], images()[0]):
        with pytest.raises((TypeError, ValueError), match="x: got"):
            integer(np.ascontiguousarray(x))
    with pytest.raises(RuntimeError, match="frozen"):
        integer.run(images(2), nn.Step(training=True))


def test_numbers_that_are_none(made):
    """NaN becomes the lowest code, infinite numbers the ends: nothing else of the batch changes."""
    _, integer = made("branches")
    x = images(3)
    expected = integer(x)
    x[1, 0, 3, 3], x[1, 1, 5, 5], x[1, 2, 7, 7] = np.nan, np.inf, -np.inf
    found = integer(x)
    assert np.isfinite(found).all()
    np.testing.assert_equal(found[[0, 2]], expected[[0, 2]])


def test_words_of_the_oracle():
    q = np.arange(2 * 5 * 3).reshape(2, 5, 1, 3).astype(np.uint8)
    words = words_of(q)
    assert words.shape == (2, 2, 1, 3) and words[0, 0, 0, 0] == 0x09060300
    assert np.array_equal(codes_of(words, 5, np.uint8), q)
