"""Operators that are not known here, in ONNX Runtime: `load(..., fallback="onnxruntime")`."""

import copy
import pickle
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import lowerconv.onnx  # noqa: E402
from lowerconv.onnx import OnnxError  # noqa: E402

from .networks import model_of  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 6, 6)).astype(np.float32)
W = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
MICROSOFT = "com.microsoft"
node = helper.make_node


def with_microsoft(nodes, inputs, outputs, constants):
    model = model_of(nodes, inputs, outputs, constants)
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model


def check(model, *inputs, **options):
    """Return the network of a model that computes what ONNX Runtime does."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="computes what is not known")
    network = lowerconv.onnx.load(model, fallback="onnxruntime", **options)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, dict(zip(network.input_names, inputs, strict=True)))
    results = network(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    for result, y in zip(results, expected, strict=True):
        assert result.dtype == y.dtype and result.shape == y.shape
        np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-5)
    return network


def image_model():
    """Return a model of any number of images: known, unknown, known, and unknown twice."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="first"),
        node("QuickGelu", ["c"], ["q"], domain=MICROSOFT, name="quick", alpha=1.5),
        node("MaxPool", ["q"], ["p"], kernel_shape=[2, 2]),
        node("BiasGelu", ["p", "b"], ["g"], domain=MICROSOFT, name="gelu"),
        node("QuickGelu", ["g"], ["y"], domain=MICROSOFT),
    ]
    constants = {"w": W, "b": RNG.standard_normal(3).astype(np.float32)}
    return with_microsoft(nodes, {"x": ["n", 3, 6, 6]}, ["y"], constants)


def test_unknown_nodes_are_a_part_of_the_program():
    network = check(image_model(), X)
    assert not network._after
    assert [n.operator for n in network.nodes] == [
        *("Conv", "QuickGelu", "MaxPool", "BiasGelu+QuickGelu")
    ]
    rows = network.explain(X).layers
    assert [row.how for row in rows] == ["compiled", "ONNX Runtime", "compiled", "ONNX Runtime"]
    assert network(X[:1]).shape[0] == 1
    assert np.array_equal(network(X)[:1], network(X[:1]))


def test_copies_and_files_compute_the_same(tmp_path):
    network = check(image_model(), X)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert np.array_equal(twin(X), network(X))
    network.save_onnx(tmp_path / "net.onnx")
    check(onnx.load(tmp_path / "net.onnx"), X)
    again = lowerconv.onnx.load(tmp_path / "net.onnx", fallback="onnxruntime")
    assert np.array_equal(again(X), network(X))


def test_all_is_told_without_it():
    with pytest.raises(OnnxError) as told:
        lowerconv.onnx.load(image_model())
    for text in ("com.microsoft.QuickGelu (quick, number 4)", "com.microsoft.BiasGelu (gelu)"):
        assert text in str(told.value)
    with pytest.raises(ValueError, match="fallback: got 'torch', expected 'onnxruntime' or None"):
        lowerconv.onnx.load(image_model(), fallback="torch")


def test_onnx_runtime_that_is_absent_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'lowerconv\[onnxruntime\]'"):
        lowerconv.onnx.load(image_model(), fallback="onnxruntime")


def test_it_is_not_asked_where_all_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = model_of([node("Relu", ["x"], ["y"])], {"x": [2]}, ["y"])
    network = lowerconv.onnx.load(model, fallback="onnxruntime")
    assert network(np.array([-1, 1], np.float32)).tolist() == [0, 1]


def test_sequences_stay_within_a_group():
    nodes = [
        node("SplitToSequence", ["x"], ["parts"], axis=1),
        node("Relu", ["x"], ["r"]),  # between them, and of no concern
        node("SequenceAt", ["parts", "one"], ["part"]),
        node("Add", ["part", "r"], ["y"]),
    ]
    model = model_of(nodes, {"x": X.shape}, ["y"], {"one": np.array(1)})
    check(model, X)
    nodes = [*nodes[:1], node("Identity", ["parts"], ["same"]), *nodes[1:]]
    nodes[3] = node("SequenceAt", ["same", "one"], ["part"])
    model = model_of(nodes, {"x": X.shape}, ["y"], {"one": np.array(1)})
    pytest.importorskip("onnxruntime", reason="computes what is not known")
    with pytest.raises(OnnxError, match=r"'parts': got seq\(tensor\(float\)\).*expected a tensor"):
        lowerconv.onnx.load(model, fallback="onnxruntime")


def test_sizes_that_contents_decide_are_computed_after_the_program():
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("Scan", ["zero", "r"], ["last", "sums"], body=running_sum(), num_scan_inputs=1),
        node("SequenceConstruct", ["sums", "r"], ["both"]),
        node("ConcatFromSequence", ["both"], ["y"], axis=0),
        node("Neg", ["y"], ["z"]),
    ]
    shape = X[0, 0].shape
    model = model_of(nodes, {"x": ["n", *shape[1:]]}, ["z", "last"], {"zero": np.zeros(6, "f")})
    network = check(model, X[0, 0])
    assert [n.operator for n in network._after] == [
        *("Scan+SequenceConstruct+ConcatFromSequence", "Neg")
    ]


def running_sum():
    row = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [6]) for n in "abcd"]
    nodes = [node("Add", ["a", "b"], ["c"]), node("Identity", ["c"], ["d"])]
    return helper.make_graph(nodes, "body", row[:2], row[2:])


def test_branches_with_unknown_operators_go_elsewhere_with_what_they_read():
    inner = [node("QuickGelu", ["r"], ["q"], domain=MICROSOFT), node("Mul", ["q", "two"], ["b"])]
    made = [helper.make_tensor_value_info("b", TensorProto.FLOAT, X.shape)]
    two = numpy_helper.from_array(np.array(2, np.float32), "two")
    then = helper.make_graph(inner, "then", [], made, [two])
    other = helper.make_graph([node("Neg", ["r"], ["b"])], "else", [], made)
    nodes = [
        node("Relu", ["x"], ["r"]),
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "bound"], ["c"]),
        node("If", ["c"], ["i"], then_branch=then, else_branch=other),
        node("Sigmoid", ["i"], ["y"]),
    ]
    constants = {"bound": np.array(100, np.float32)}
    model = with_microsoft(nodes, {"x": X.shape}, ["y"], constants)
    network = check(model, X)
    check(model, X * 1000)
    assert not network._after


def test_random_numbers_are_drawn_each_time():
    pytest.importorskip("onnxruntime", reason="computes what is not known")
    nodes = [node("RandomNormal", [], ["noise"], shape=[5]), node("Add", ["x", "noise"], ["y"])]
    network = lowerconv.onnx.load(model_of(nodes, {"x": [5]}, ["y"]), fallback="onnxruntime")
    x = np.zeros(5, np.float32)
    assert not np.array_equal(network(x), network(x))


def test_what_onnx_runtime_does_not_know_is_told():
    pytest.importorskip("onnxruntime", reason="computes what is not known")
    model = model_of([node("Foo", ["x"], ["y"], domain="com.example")], {"x": [1]}, ["y"])
    with pytest.raises(OnnxError, match=r"ONNX Runtime cannot read it either.*Foo"):
        lowerconv.onnx.load(model, fallback="onnxruntime")


def test_errors_of_onnx_runtime_name_the_node():
    nodes = [node("SequenceConstruct", ["x", "x"], ["s"]), node("SequenceAt", ["s", "i"], ["y"])]
    model = model_of(nodes, {"x": [1]}, ["y"], {"i": np.array(1)})
    network = check(model, np.ones(1, np.float32))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(7), "i"))
    network = lowerconv.onnx.load(model, fallback="onnxruntime")
    with pytest.raises(OnnxError, match=r"node 'SequenceConstruct\+SequenceAt'.*ONNX Runtime: "):
        network(np.ones(1, np.float32))


def test_functions_of_a_file_are_put_in_their_place():
    function = helper.make_function(
        *("local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])]),
        [helper.make_opsetid("", 17)],
    )
    model = model_of([node("Twice", ["x"], ["y"], domain="local")], {"x": [2]}, ["y"])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    network = lowerconv.onnx.load(model)
    assert network(np.array([1, 2], np.float32)).tolist() == [2, 4]
