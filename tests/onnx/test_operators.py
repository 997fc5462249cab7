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

from .networks import model_of, small_model  # noqa: E402

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

SEEDS = range(3)
PIXELS = {1: (11,), 2: (9, 12), 3: (5, 7, 6)}


def numbers(rng, *shape) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def windows(rng, axes: int, same: bool = True) -> dict:
    """Return random attributes of a convolution or pooling."""
    found = {"strides": rng.integers(1, 3, axes).tolist()}
    mode = rng.choice(["pads", "uneven", "VALID", *(["SAME_UPPER", "SAME_LOWER"] if same else [])])
    if mode == "pads":
        found["pads"] = [1] * 2 * axes
    elif mode == "uneven":
        found["pads"] = rng.integers(0, 2, 2 * axes).tolist()
    else:
        found["auto_pad"] = str(mode)
    return found


def conv(rng, axes: int):
    groups = int(rng.choice([1, 2, 4]))
    extents = rng.integers(1, 4, axes).tolist()
    attributes = windows(rng, axes) | {"dilations": rng.integers(1, 3, axes).tolist()}
    if attributes.get("auto_pad", "VALID") != "VALID":
        attributes["dilations"] = [1] * axes  # the reference has other padding for these
    constants = {"w": numbers(rng, 8, 4 // groups, *extents), "b": numbers(rng, 8)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **attributes)
    return [node], (2, 4, *PIXELS[axes]), constants


def conv_transpose(rng, axes: int):
    groups = int(rng.choice([1, 2]))
    strides = rng.integers(1, 4, axes).tolist()
    attributes = {"strides": strides, "pads": rng.integers(0, 2, 2 * axes).tolist()}
    if rng.random() < 0.5:
        attributes["output_padding"] = [s - 1 for s in strides]
    constants = {"w": numbers(rng, 4, 3, *[3] * axes), "b": numbers(rng, 3 * groups)}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=groups, **attributes)
    return [node], (2, 4, *PIXELS[axes]), constants


def pool(rng, kind: str, axes: int):
    attributes = windows(rng, axes) | {"kernel_shape": [2 + axes % 2] * axes}
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    elif "auto_pad" not in attributes and kind == "MaxPool":
        attributes["dilations"] = rng.integers(1, 3, axes).tolist()
    return [helper.make_node(kind, ["x"], ["y"], **attributes)], (2, 3, *PIXELS[axes]), {}


def resize(rng):
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    way = str(rng.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]))
    sizes = [2, 3, *map(int, rng.integers(4, 25, 2))]
    node = helper.make_node(
        "Resize", ["x", "", "", "n"], ["y"], mode=mode, coordinate_transformation_mode=way
    )
    return [node], (2, 3, 9, 12), {"n": np.array(sizes)}


def per_channel(rng):
    """An affine function of each channel, as scaled pictures have it."""
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Div", ["a", "deviation"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    constants = {
        **{"mean": numbers(rng, 3, 1, 1), "deviation": np.abs(numbers(rng, 1, 3, 1, 1)) + 1},
        "w": numbers(rng, 4, 3, 3, 3),
    }
    return nodes, (2, 3, 9, 12), constants


def last_channels(rng):
    """A network of images whose channels come last: transposes that cancel."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        node("Conv", ["a", "w"], ["b"], auto_pad="SAME_UPPER"),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        node("PRelu", ["c", "slope"], ["d"]),
        node("Transpose", ["d"], ["e"], perm=[0, 3, 1, 2]),
        node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["f"], ["y"], perm=[0, 2, 3, 1]),
    ]
    return nodes, (2, 9, 12, 3), {"w": numbers(rng, 4, 3, 3, 3), "slope": numbers(rng, 1, 1, 4)}


def hard_swish(rng, linear=False):
    """As exporters have written it: x * clip(x + 3, 0, 6) / 6, behind a batch norm.

    PaddleOCR's networks have a factor and a summand before it.
    """
    node, before = helper.make_node, "g" if linear else "n"
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
        *([node("Mul", ["n", "six"], ["f"]), node("Sub", ["f", "three"], ["g"])] if linear else []),
        node("Add", [before, "three"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["b"]),
        node("Mul", [before, "b"], ["d"]),
        node("Div", ["d", "six"], ["y"]),
    ]
    constants = {
        **{"w": numbers(rng, 4, 3, 3, 3), "s": numbers(rng, 4), "t": numbers(rng, 4)},
        **{"m": numbers(rng, 4), "v": np.abs(numbers(rng, 4)) + 1},
        **{n: np.array(v, np.float32) for n, v in (("three", 3), ("zero", 0), ("six", 6))},
    }
    return nodes, (2, 3, 9, 12), constants


def squeeze_and_excite(rng):
    node = helper.make_node
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Conv", ["p", "w1", "b1"], ["q"]),
        node("Relu", ["q"], ["r"]),
        node("Conv", ["r", "w2"], ["s"]),
        node("HardSigmoid", ["s"], ["g"], alpha=1 / 6, beta=0.5),
        node("Mul", ["x", "g"], ["y"]),
    ]
    constants = {
        "w1": numbers(rng, 2, 4, 1, 1),
        "b1": numbers(rng, 2),
        "w2": numbers(rng, 4, 2, 1, 1),
    }
    return nodes, (2, 4, 9, 12), constants


def normalized(rng, kind: str):
    more = {"GroupNormalization": {"num_groups": 2}}.get(kind, {})
    size = (12,) if kind == "LayerNormalization" else (4,)
    node = helper.make_node(kind, ["x", "s", "t"], ["y"], **more)
    return [node], (2, 4, 9, 12), {"s": numbers(rng, *size), "t": numbers(rng, *size)}


def recurrent(rng, kind: str):
    gates, way = (
        {"LSTM": 4, "GRU": 3, "RNN": 1}[kind],
        str(rng.choice(["reverse", "bidirectional"])),
    )
    D = 2 if way == "bidirectional" else 1
    D, way = (1, "forward") if kind != "LSTM" and D == 1 else (D, way)
    constants = {
        "w": numbers(rng, D, gates * 5, 3),
        "r": numbers(rng, D, gates * 5, 5),
        "b": numbers(rng, D, 2 * gates * 5),
    }
    node = helper.make_node(kind, ["x", "w", "r", "b"], ["y"], hidden_size=5, direction=way)
    return [node], (7, 2, 3), constants


def one(operator: str, *operands: str, shape=(2, 4, 9, 12), **attributes):
    def build(rng):
        constants = {name: numbers(rng, *[12] * 2) for name in operands}
        return [helper.make_node(operator, ["x", *operands], ["y"], **attributes)], shape, constants

    return build


CASES = {
    **{f"Conv {n}-D": lambda rng, n=n: conv(rng, n) for n in (1, 2, 3)},
    **{f"ConvTranspose {n}-D": lambda rng, n=n: conv_transpose(rng, n) for n in (1, 2, 3)},
    **{
        f"{kind} {n}-D": lambda rng, kind=kind, n=n: pool(rng, kind, n)
        for kind in ("MaxPool", "AveragePool")
        for n in (1, 2, 3)
    },
    "Resize": resize,
    "constants per channel": per_channel,
    "channels last": last_channels,
    "HardSwish of parts": hard_swish,
    "HardSwish of a linear function": lambda rng: hard_swish(rng, True),
    "squeeze and excite": squeeze_and_excite,
    **{
        kind: lambda rng, kind=kind: normalized(rng, kind)
        for kind in ("InstanceNormalization", "GroupNormalization", "LayerNormalization")
    },
    **{kind: lambda rng, kind=kind: recurrent(rng, kind) for kind in ("LSTM", "GRU", "RNN")},
    "MatMul": one("MatMul", "w"),
    "Softmax": one("Softmax", axis=1),
    "LRN": one("LRN", size=3),
    "DepthToSpace": one("DepthToSpace", blocksize=2),
    "ReduceL2": one("ReduceL2", axes=[2, 3]),
    "Gelu": one("Gelu", approximate="tanh"),
    "Mish": one("Mish"),
}


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
    for linear in (False, True):
        nodes, shape, constants = hard_swish(rng, linear)
        net = lowerconv.onnx.load(model_of(nodes, {"x": list(shape)}, ["y"], constants))
        assert layers_of(net, shape) == ["Conv2d", "Pointwise"]  # all linear is in the filters
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
