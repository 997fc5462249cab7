"""Files of integer networks: read, they are integers here; written, they are so elsewhere."""

import io

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import lowerconv as lc  # noqa: E402
import lowerconv.onnx  # noqa: E402
from lowerconv import quant  # noqa: E402
from lowerconv.nn.recording import make_graph  # noqa: E402
from lowerconv.nn.step import Step  # noqa: E402
from lowerconv.quant.conv import IntegerConv2d  # noqa: E402
from tests.quant.networks import NETWORKS, images, make  # noqa: E402

from .networks import model_of  # noqa: E402

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

SEEDS = range(3)


def expected(model, x, optimized: bool = True) -> list:
    """Return what ONNX Runtime computes where it is installed, else the reference evaluator."""
    feeds = {model.graph.input[0].name: x}
    if onnxruntime is None:
        return ReferenceEvaluator(model).run(None, feeds)
    options = onnxruntime.SessionOptions()
    if not optimized:  # each operator by itself
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


def kinds(net, *shapes, dtypes=None) -> list[str]:
    """Return the layers of a network's program."""
    dtypes = dtypes or (np.dtype(np.float32),) * len(shapes)
    shapes, kind = (shapes, dtypes) if len(shapes) > 1 else (shapes[0], dtypes[0])
    return [type(node.layer).__name__ for node in make_graph(net, shapes, kind, False, True).nodes]


def scales(rng, *shape) -> np.ndarray:
    return rng.uniform(0.01, 0.05, shape).astype(np.float32)


class Draft:
    """Nodes and constants of a file that is being made."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.nodes, self.constants = rng, [], {}

    def constant(self, array) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def params(self, dtype=np.uint8, scale=None) -> list[str]:
        info = np.iinfo(dtype)
        zero = self.rng.integers(info.min // 2, info.max // 2 + 1)
        scale = scales(self.rng)[()] if scale is None else scale
        return [self.constant(np.float32(scale)), self.constant(np.asarray(zero, dtype))]

    def around(self, x: str, params: list[str]) -> str:
        """Add QuantizeLinear and DequantizeLinear."""
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *params), *params)

    def weight(self, *shape: int, axis: int = 0, dtype=np.int8) -> str:
        codes = self.rng.integers(-127, 128, shape).astype(dtype)
        scale, zeros = scales(self.rng, shape[axis]) / 30, np.zeros(shape[axis], dtype)
        given = [self.constant(array) for array in (codes, scale, zeros)]
        return self.add("DequantizeLinear", *given, axis=axis)

    def model(self, shape, version: int = 19):
        return model_of(self.nodes, {"x": list(shape)}, ["y"], self.constants, version)


def network(rng, dtype) -> tuple[Draft, tuple]:
    """Return convolutions, a sum, pooling and a product, as quantization tools write them."""
    d = Draft(rng)
    x = d.around("x", d.params(dtype, 0.02))
    bias = d.constant(rng.standard_normal(8).astype(np.float32))
    a = d.add("Relu", d.add("Conv", x, d.weight(8, 3, 3, 3), bias, pads=[1, 1, 1, 1]))
    a = d.around(a, d.params(dtype, 0.03))
    b = d.around(d.add("Conv", a, d.weight(8, 4, 1, 1), group=2), d.params(dtype, 0.02))
    a = d.around(d.add("Add", a, b), d.params(dtype, 0.03))
    p = d.params(dtype, 0.03)
    a = d.around(d.add("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2]), p)
    c = d.around(d.add("Conv", a, d.weight(5, 8, 1, 1)), d.params(dtype, 0.04))
    a = d.around(d.add("Concat", a, c, axis=1), d.params(dtype, 0.03))
    p = d.params(dtype, 0.03)
    a = d.around(d.add("Flatten", d.around(d.add("GlobalAveragePool", a), p)), p)
    d.add("Gemm", a, d.weight(6, 13), output="y", transB=1)
    return d, (2, 3, 8, 10)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8], ids=["u8", "s8"])
def test_files_with_codes_compute_with_integers(dtype):
    for seed in SEEDS:
        print(f"seed {seed}")
        d, shape = network(np.random.default_rng(seed), dtype)
        x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        net, model = lowerconv.onnx.load(d.model(shape)), d.model(shape)
        found = kinds(net, shape)
        assert found.count("IntegerConv2d") == 4 and "Conv2d" not in found
        assert {"IntegerAdd", "IntegerMaxPool2d", "IntegerAvgPool2d", "IntegerConcat"} < {*found}
        assert not {"QuantizeLinear", "DequantizeLinear", "Dequantize"} & {*found}
        (y,) = expected(model, x)
        result = net(x)
        step = np.abs(y).max() / 30  # a few codes differ by one
        assert np.abs(result - y).max() < step
        assert np.array_equal(lc.quantize(net, strict=True)(x), result)
        trained = lowerconv.onnx.load(model, trainable=True)
        assert np.abs(trained(x) - y).max() < step


def test_a_file_that_is_written_again():
    d, shape = network(np.random.default_rng(0), np.uint8)
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    net = lowerconv.onnx.load(d.model(shape))
    buffer = io.BytesIO()
    net.save_onnx(buffer)
    assert np.abs(lowerconv.onnx.load(buffer.getvalue())(x) - net(x)).max() < 0.05


@pytest.mark.parametrize("case", ["axis", "float-weights", "uint8-weights", "3-D", "shared"])
def test_what_no_integer_layer_computes_is_right_as_well(case):
    rng = np.random.default_rng(3)
    d = Draft(rng)
    shape = (2, 4, 6, 5)
    x = d.around("x", d.params(np.uint8, 0.02))
    if case == "axis":  # a scale for each channel of the images
        given = [d.constant(scales(rng, 4)), d.constant(np.zeros(4, np.uint8))]
        q = d.add("QuantizeLinear", "x", *given, axis=1)
        x = d.add("DequantizeLinear", q, *given, axis=1)
        y = d.add("Conv", x, d.weight(3, 4, 1, 1))
    elif case == "float-weights":
        y = d.add("Conv", x, d.constant(rng.standard_normal((3, 4, 3, 3)).astype(np.float32)))
    elif case == "uint8-weights":  # codes less their zero points need more than a byte
        codes = d.constant(np.array([0, 255, 3, 120], np.uint8).reshape(1, 4, 1, 1))
        given = [d.constant(np.float32(0.02)), d.constant(np.uint8(10))]
        y = d.add("Conv", x, d.add("DequantizeLinear", codes, *given))
    elif case == "3-D":
        shape = (2, 4, 6)
        y = d.add("Conv", x, d.weight(3, 4, 3))
    else:  # codes that are a result, and numbers that integers do not read
        y = d.add("Conv", x, d.weight(3, 4, 1, 1))
        y = d.add("Mul", d.add("Softmax", d.around(y, d.params(np.int8)), axis=1), y)
    d.add("Identity", d.around(y, d.params(np.uint8)), output="y")
    x = rng.standard_normal(shape).astype(np.float32)
    model = d.model(shape)
    (y,) = expected(model, x, optimized=False)  # which has other scales for some of it
    found = lowerconv.onnx.load(model)(x)
    (step,) = [v for v in list(d.constants.values())[-2:] if v.dtype == np.float32]
    assert np.abs(found - y).max() <= 1.01 * step
    assert np.mean(np.abs(found - y) > step / 2) < 0.02


def test_codes_as_inputs_and_results():
    rng = np.random.default_rng(4)
    d = Draft(rng)
    p, q = d.params(np.uint8, 0.05), d.params(np.int8, 0.06)
    y = d.add("Conv", d.add("DequantizeLinear", "x", *p), d.weight(6, 3, 3, 3), pads=[1, 1, 1, 1])
    d.add("QuantizeLinear", y, *q, output="y")
    x_info = helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [2, 3, 5, 7])
    y_info = helper.make_tensor_value_info("y", onnx.TensorProto.INT8, [2, 6, 5, 7])
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in d.constants.items()]
    graph = helper.make_graph(d.nodes, "codes", [x_info], [y_info], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = rng.integers(0, 256, (2, 3, 5, 7)).astype(np.uint8)
    net = lowerconv.onnx.load(model)
    assert kinds(net, x.shape, dtypes=[x.dtype]) == ["Pack", "IntegerConv2d", "Unpack"]
    (y,) = expected(model, x)
    found = net(x)
    assert found.dtype == np.int8
    assert np.abs(found.astype(int) - y).max() <= 1 and np.mean(found != y) < 0.02


def q_linear(rng, operator: str):
    """Return a file of one operator of codes, and its operands."""
    d = Draft(rng)
    shape, domain = (2, 8, 5, 6), ""
    x = rng.integers(0, 256, shape).astype(np.uint8)
    given, attributes = [], {}
    if operator == "QLinearConv":
        w = rng.integers(-128, 128, (6, 4, 3, 3)).astype(np.int8)
        weights = [w, scales(rng, 6), np.zeros(6, np.int8)]
        given = [d.constant(array) for array in weights]
        given += [*d.params(np.uint8, 3.0), d.constant(rng.integers(-999, 999, 6, np.int32))]
        attributes = {"group": 2, "strides": [2, 1], "pads": [1, 0, 1, 2]}
    elif operator == "QLinearMatMul":
        x = rng.integers(0, 256, (5, 8)).astype(np.uint8)
        weights = [rng.integers(-128, 128, (8, 3)).astype(np.int8), scales(rng, 3)]
        given = [d.constant(array) for array in (*weights, np.zeros(3, np.int8))]
        given += d.params(np.uint8, 2.0)
    else:
        domain = "com.microsoft"
        if operator in ("QLinearAdd", "QLinearMul"):
            other = d.constant(rng.integers(0, 256, shape).astype(np.uint8))
            given = [other, *d.params(np.uint8, 0.04)]
        given += d.params(np.uint8, 0.07)
        if operator == "QLinearAveragePool":
            attributes = {"kernel_shape": [3, 2], "strides": [1, 2]}
    operands = ["x", *d.params(np.uint8, 0.03), *given]
    if operator == "QLinearConcat":
        operands = [*given, "x", *d.params(np.uint8, 0.03), "x", *d.params(np.uint8, 0.05)]
        attributes = {"axis": 1}
    d.nodes.append(helper.make_node(operator, operands, ["y"], domain=domain, **attributes))
    info = [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, list(x.shape))]
    y_info = [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)]
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in d.constants.items()]
    graph = helper.make_graph(d.nodes, "single", info, y_info, tensors)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8), x


STANDARD = ["QLinearConv", "QLinearMatMul"]
MICROSOFT = ["QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid"]
MICROSOFT += ["QLinearAveragePool", "QLinearGlobalAveragePool"]


@pytest.mark.parametrize("operator", STANDARD + MICROSOFT)
def test_operators_of_codes(operator):
    if operator in MICROSOFT and onnxruntime is None:
        pytest.skip("onnxruntime is not installed, and the package onnx does not know it")
    for seed in SEEDS:
        print(f"seed {seed}")
        model, x = q_linear(np.random.default_rng(seed), operator)
        (y,) = expected(model, x)
        found = lowerconv.onnx.load(model)(x)
        assert found.dtype == y.dtype and found.shape == y.shape
        assert np.abs(found.astype(int) - y).max() <= 1
        assert np.mean(found != y) < (0.1 if "Pool" in operator else 0.03)  # ties are not rare


INTEGERS = {
    "ConvInteger": lambda rng: (
        [(2, 4, 6, 5), (6, 2, 3, 2)], {"group": 2, "pads": [1, 1, 0, 1], "strides": [1, 2]}
    ),
    "ConvInteger 1-D": lambda rng: ([(2, 4, 9), (3, 4, 3)], {}),
    "MatMulInteger": lambda rng: ([(2, 5, 7), (7, 3)], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_exact_sums_of_codes(name):
    operator = name.split()[0]
    for seed in SEEDS:
        print(f"seed {seed}")
        rng = np.random.default_rng(seed)
        (x_shape, w_shape), attributes = INTEGERS[name](rng)
        x = rng.integers(0, 256, x_shape).astype(np.uint8)
        constants = {
            "w": rng.integers(0, 256, w_shape).astype(np.uint8),
            "xz": np.uint8(rng.integers(0, 256)),
            "wz": np.uint8(rng.integers(0, 256)),
        }
        node = helper.make_node(operator, ["x", "w", "xz", "wz"], ["y"], **attributes)
        info = [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, list(x_shape))]
        y_info = [helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)]
        tensors = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
        graph = helper.make_graph([node], "single", info, y_info, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (y,) = expected(model, x)
        found = lowerconv.onnx.load(model)(x)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, y)


def test_codes_of_what_there_is():
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])]
    nodes += [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    model = model_of(nodes, {"x": [None, 5]}, ["y"], {}, 19)
    for x in (np.zeros((2, 5)), np.random.default_rng(1).standard_normal((3, 5))):
        x = x.astype(np.float32)
        (y,) = expected(model, x)
        np.testing.assert_allclose(lowerconv.onnx.load(model)(x), y, rtol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_what_we_write_is_the_same_elsewhere(name, tmp_path):
    # The reference evaluator is slow.
    net, x = make(name), images(1 if onnxruntime is None else 6, seed=9)
    integer = lc.quantize(net, images())
    path = tmp_path / "q.onnx"
    integer.save_onnx(path, x.shape)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    ours = integer(x)
    ours = ours if isinstance(ours, tuple) else (ours,)
    back = lowerconv.onnx.load(path)
    again = lc.quantize(back)
    count = [sum(isinstance(n, IntegerConv2d) for n in q.layers) for q in (integer, again)]
    assert count[0] == count[1] > 1
    # Its QLinearAveragePool has other means where a last window is not full.
    given = [back(x), again(x)]
    if onnxruntime is not None or name != "normed":  # the reference evaluator is wrong about LRN
        given.append(expected(model, x, optimized=name != "chain"))
    for results in given:
        results = results if isinstance(results, (tuple, list)) else (results,)
        for a, b in zip(ours, results, strict=True):
            a, b = a.astype(np.float64), b.astype(np.float64)
            # A sum halfway between two steps may go to the other one, and a few do.
            assert np.abs(a - b).max() < 0.02 * np.abs(a).max()
            assert np.abs(a - b).mean() < 1e-3 * np.abs(a).max()


@pytest.mark.parametrize(
    "form", [{"weight_bits": 3, "activation_bits": 5}, {"ternary_weights": True}]
)
def test_learnt_codes_and_negative_scales_are_written(form, tmp_path):
    """Batch norm may turn the sign of a filter, which scales in files have not."""
    net = quant.prepare(make("residual"), **form)
    net.run(images(8), Step(training=True))
    integer = lc.quantize(net, images(8))
    scales = [layer.filters.scale for layer in integer.layers if isinstance(layer, IntegerConv2d)]
    assert any((scale < 0).any() for scale in scales)
    x, path = images(1, seed=9), tmp_path / "q.onnx"
    integer.save_onnx(path, x.shape)
    model, ours = onnx.load(path), integer(x)
    for found in (expected(model, x)[0], lowerconv.onnx.load(path)(x)):
        assert np.abs(found - ours).max() < 0.05 * np.abs(ours).max()
