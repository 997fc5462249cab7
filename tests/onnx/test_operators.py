"""Operators with constant operands, as files have them, against ONNX Runtime."""

import copy
import pickle
import threading

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import lowerconv.onnx  # noqa: E402
from lowerconv.nn.recording import make_graph  # noqa: E402
from lowerconv.nn.step import Step  # noqa: E402

from .cases import CASES, hard_swish, last_channels, numbers, scaled_hard_swish  # noqa: E402
from .networks import model_of, small_model  # noqa: E402

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

SEEDS = range(3)
# What the reference evaluator has wrong or does not have: groups, SAME_LOWER, the last channels.
WRONG = {"ConvTranspose 1-D", "ConvTranspose 2-D", "ConvTranspose 3-D", "MaxPool 3-D", "LRN"}


def expected(model, *xs) -> list:
    """Return what ONNX Runtime computes where it is installed, else the reference evaluator."""
    feeds = {v.name: x for v, x in zip(model.graph.input, xs, strict=True)}
    if onnxruntime is not None:
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


@pytest.mark.parametrize("name", CASES)
def test_operators_with_constants(name):
    if name in WRONG and onnxruntime is None:
        pytest.skip("onnxruntime is not installed, and the reference evaluator is wrong here")
    for seed in SEEDS:
        print(f"{name}: seed {seed}")
        rng = np.random.default_rng(seed)
        nodes, shape, constants = CASES[name](rng)
        version = 21 if name in ("GroupNormalization", "Gelu", "Mish") else 17
        model = model_of(nodes, {"x": [None] * len(shape)}, ["y"], constants, version)
        x = numbers(rng, *shape)
        (y,) = expected(model, x)
        result = lowerconv.onnx.load(model)(x)
        assert result.shape == y.shape
        np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-4 * np.abs(y).max())


def layers_of(net, shape) -> list[str]:
    graph = make_graph(net, shape, np.float32, False, True)
    return [type(node.layer).__name__ for node in graph.nodes]


def test_patterns_become_one_layer():
    rng = np.random.default_rng(0)
    for build in (hard_swish, scaled_hard_swish):
        nodes, shape, constants = build(rng)
        net = lowerconv.onnx.load(model_of(nodes, {"x": list(shape)}, ["y"], constants))
        assert layers_of(net, shape) == ["Conv2d"]  # the batch norm is in the filters
    nodes, shape, constants = hard_swish(rng, True)
    net = lowerconv.onnx.load(model_of(nodes, {"x": list(shape)}, ["y"], constants))
    assert layers_of(net, shape) == ["Conv2d"]  # all that is linear is in the filters
    nodes, shape, constants = last_channels(rng)
    net = lowerconv.onnx.load(model_of(nodes, {"x": list(shape)}, ["y"], constants))
    assert layers_of(net, shape).count("Transpose") <= 4


def test_threads_share_a_network():
    rng = np.random.default_rng(0)
    model = small_model(rng)
    net = lowerconv.onnx.load(model)
    xs = [numbers(rng, 1 + i % 3, 3, 12, 12) for i in range(12)]
    wanted = [expected(model, x)[0] for x in xs]
    found: dict[int, np.ndarray] = {}

    def work(first: int) -> None:
        for i in range(first, len(xs), 4):
            found[i] = net(xs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, y in enumerate(wanted):
        np.testing.assert_allclose(found[i], y, rtol=1e-4, atol=1e-5)


def test_copies_are_networks_of_their_own():
    rng = np.random.default_rng(0)
    net = lowerconv.onnx.load(small_model(rng))
    x = numbers(rng, 1, 3, 12, 12)
    y = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert np.array_equal(other(x), y)


def test_inputs_that_shapes_depend_on_are_taken_by_their_contents():
    shape = helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [None])
    model = model_of([helper.make_node("Reshape", ["x", "shape"], ["y"])], {"x": [None]}, ["y"])
    model.graph.input.append(shape)
    net = lowerconv.onnx.load(model)
    x = np.arange(12, dtype=np.float32)
    for wanted in ((3, 4), (2, 6), (3, 4), (12, 1)):
        assert np.array_equal(net(x, np.array(wanted)), x.reshape(wanted))


def test_sizes_that_contents_decide():
    """Boxes are selected after the program, and what follows is computed on arrays."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["i"]),
        node("Cast", ["i"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": [None, None]}, ["y", "r"])
    net = lowerconv.onnx.load(model)
    for _ in range(3):
        x = numbers(rng, 5, 6)
        for result, y in zip(net(x), expected(model, x), strict=True):
            assert np.array_equal(result, y)
    with pytest.raises(lowerconv.onnx.OnnxError, match=r"NonZero.*not trained"):
        lowerconv.onnx.load(model, trainable=True)


def in_double(model):
    """Return a model with float64 in place of float32."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and tensor.name != "scales":
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    return model


def test_gradients_of_a_trainable_network():
    """Against differences along random directions, of the input and of each parameter."""
    rng = np.random.default_rng(0)
    net = lowerconv.onnx.load(in_double(small_model(rng)), trainable=True)
    x, weights = rng.standard_normal((2, 3, 12, 12)), rng.standard_normal((2, 5))
    step = Step(training=True, input_grad=True)

    def loss() -> float:
        return float((weights * net.run(x, step)).sum())

    loss()
    dx = net.backward(weights)
    assert dx is not None
    arrays = {name: (p.data, p.grad.copy()) for name, p in net.parameters().items()}
    assert len(arrays) == 7
    for name, (array, gradient) in {**arrays, "x": (x, dx.copy())}.items():
        direction = rng.standard_normal(array.shape)
        kept, losses = array.copy(), []
        for sign in (1, -1):
            array[...] = kept + sign * 1e-6 * direction
            losses.append(loss())
        array[...] = kept
        slope = (losses[0] - losses[1]) / 2e-6
        print(name, slope)
        assert np.isclose((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-6), name
