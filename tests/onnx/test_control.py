"""If and Loop: what is known before arrays are is followed then, the rest once they are there."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

import lowerconv as lc  # noqa: E402
import lowerconv.onnx  # noqa: E402
from lowerconv.nn.step import Step  # noqa: E402
from lowerconv.onnx import OnnxError  # noqa: E402

from .networks import model_of  # noqa: E402

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 5, 5)).astype(np.float32)
W = RNG.standard_normal((3, 3, 3, 3)).astype(np.float32)
node = helper.make_node


def values(*names: str, kind: int = TensorProto.FLOAT, shape=None) -> list:
    return [helper.make_tensor_value_info(name, kind, shape) for name in names]


def conditional(condition: str, **attributes):
    """Return an If: a convolution, or twice the input; both name their values alike."""
    then = helper.make_graph(
        [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"])],
        "then",
        [],
        values("r"),
        [numpy_helper.from_array(W, "w")],
    )
    two = numpy_helper.from_array(np.array(2, np.float32), "w")
    other = helper.make_graph([node("Mul", ["x", "w"], ["r"])], "else", [], values("r"), [two])
    return node("If", [condition], ["y"], then_branch=then, else_branch=other, **attributes)


def check(model, *inputs, **options):
    """Return the network of a model that computes what the reference evaluator does."""
    network = lowerconv.onnx.load(model, **options)
    expected = ReferenceEvaluator(model).run(
        None, dict(zip(network.input_names, inputs, strict=True))
    )
    results = network(*inputs)
    for result, y in zip(
        results if isinstance(results, tuple) else (results,), expected, strict=True
    ):
        assert result.dtype == y.dtype
        np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-5)
    return network


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_condition_leaves_one_branch(taken, tmp_path):
    model = model_of([conditional("c")], {"x": X.shape}, ["y"], {"c": np.array(taken)})
    network = check(model, X)
    operators = [n.operator for n in network.nodes]
    assert operators == (["Conv", "Relu", "Identity"] if taken else ["Mul", "Identity"])
    assert len(network.parameters()) == taken
    network.save_onnx(tmp_path / "net.onnx")
    check(onnx.load(tmp_path / "net.onnx"), X)
    assert np.array_equal(lowerconv.onnx.load(tmp_path / "net.onnx")(X), network(X))


def test_what_is_left_of_a_condition_is_trained(tmp_path):
    model = model_of([conditional("c")], {"x": X.shape}, ["y"], {"c": np.array(True)})
    network = lowerconv.onnx.load(model, trainable=True)
    y = network.run(X, Step(training=True))
    network.backward(np.ones_like(y))
    (parameter,) = network.parameters().values()
    assert parameter.grad.any()
    parameter.data -= parameter.grad
    network.save_onnx(tmp_path / "net.onnx")
    np.testing.assert_allclose(
        lowerconv.onnx.load(tmp_path / "net.onnx")(X), network(X), rtol=1e-4, atol=1e-4
    )


SHAPE_DEPENDENT = [
    node("Shape", ["x"], ["s"]),
    node("Gather", ["s", "zero"], ["n"]),
    node("Equal", ["n", "two"], ["c"]),
    conditional("c"),
]


def test_conditions_of_shapes_are_known_when_a_shape_is(tmp_path):
    numbers = {"zero": np.array(0), "two": np.array(2)}
    model = model_of(SHAPE_DEPENDENT, {"x": ["n", 3, 5, 5]}, ["y"], numbers)
    network = check(model, X)
    assert network.has_program and not network._after
    check(model, X[:1])
    network.save_onnx(tmp_path / "net.onnx")
    for x in (X, X[:1]):
        again = check(onnx.load(tmp_path / "net.onnx"), x)
        assert np.array_equal(again(x), network(x))
    with pytest.raises(OnnxError, match=r"node 'If_3' \(If\).*not trained"):
        lowerconv.onnx.load(model, trainable=True)


def test_conditions_of_contents_are_followed_on_arrays():
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        conditional("c"),
        node("Neg", ["y"], ["z"]),
    ]
    model = model_of(nodes, {"x": ["n", 3, 5, 5]}, ["z"], {"zero": np.array(0, np.float32)})
    assert check(model, np.abs(X))._after
    check(model, -np.abs(X))


def test_conditions_that_are_inputs_are_looked_at():
    model = model_of([conditional("c")], {"x": X.shape}, ["y"])
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    network = check(model, X, np.array(True))
    assert network.looked_at == (1,) and not network._after
    assert not np.array_equal(network(X, np.array(False)), network(X, np.array(True)))


def loop(cond_out: list, scan: bool = True, turns: str = "m"):
    """Return a Loop that convolves what it has, and sums it up each turn."""
    body = helper.make_graph(
        [
            node("Conv", ["a", "w"], ["b"], pads=[1, 1, 1, 1]),
            node("Tanh", ["b"], ["t"]),
            node("ReduceSum", ["t"], ["sum"], keepdims=0),
            node("Cast", ["i"], ["j"], to=TensorProto.FLOAT),
            node("Add", ["sum", "j"], ["row"]),
            *cond_out,
        ],
        "body",
        [
            *values("i", kind=TensorProto.INT64, shape=[]),
            *values("c", kind=TensorProto.BOOL, shape=[]),
            *values("a"),
        ],
        [*values("go", kind=TensorProto.BOOL, shape=[]), *values("t", "row")][: 3 if scan else 2],
        [numpy_helper.from_array(W / 4, "w")],
    )
    return node("Loop", [turns, "", "x"], ["y", "rows"][: 2 if scan else 1], body=body)


def looped(x: np.ndarray, turns: int, bound: float = -np.inf) -> tuple[np.ndarray, np.ndarray]:
    """Return what `loop` computes; the reference evaluator is wrong for the rows of a loop."""
    rows = []
    while len(rows) < turns and (not rows or rows[-1] - (len(rows) - 1) > bound):
        x = np.tanh(lc.conv2d(x, W / 4, padding=1))
        rows.append(x.sum() + len(rows))
    return x, np.array(rows)


def check_loop(network, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> None:
    result, found = network(x)
    assert found.shape == rows.shape
    np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, rows, rtol=1e-3, atol=1e-3)


def test_loops_of_known_length_are_unrolled():
    nodes = [loop([node("Identity", ["c"], ["go"])])]
    model = model_of(nodes, {"x": X.shape}, ["y", "rows"], {"m": np.array(3)})
    network = lowerconv.onnx.load(model)
    assert not network._after
    check_loop(network, X, *looped(X, 3))


def test_loops_that_contents_end_run_on_arrays():
    going = [node("Greater", ["sum", "bound"], ["go"])]
    nodes = [loop(going), node("Neg", ["y"], ["z"])]
    bound = looped(X, 2)[1][1] - 1  # the second sum
    numbers = {"m": np.array(9), "bound": np.array(bound, np.float32)}
    model = model_of(nodes, {"x": X.shape}, ["z", "rows"], numbers)
    network = lowerconv.onnx.load(model)
    assert network._after
    turns = []
    for x in (X, -X, 3 * X):
        y, rows = looped(x, 9, bound)
        if all(abs(row - i - bound) > 1e-3 for i, row in enumerate(rows)):  # no close call
            check_loop(network, x, -y, rows)
            turns.append(len(rows))
    assert turns


def test_loops_within_branches():
    branch = loop([node("Identity", ["c"], ["go"])], scan=False)
    then = helper.make_graph([branch], "then", [], values("y"))
    other = helper.make_graph([node("Neg", ["x"], ["y"])], "else", [], values("y"))
    nodes = [
        *SHAPE_DEPENDENT[:3],
        node("If", ["c"], ["r"], then_branch=then, else_branch=other),
        node("Relu", ["r"], ["z"]),
    ]
    numbers = {"zero": np.array(0), "two": np.array(2), "m": np.array(2)}
    network = lowerconv.onnx.load(model_of(nodes, {"x": ["n", 3, 5, 5]}, ["z"], numbers))
    assert not network._after
    expected = np.maximum(looped(X, 2)[0], 0)
    np.testing.assert_allclose(network(X), expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(network(X[:1]), np.maximum(-X[:1], 0))


def test_loops_without_end_and_nodes_without_bodies_are_told():
    endless = loop([node("Identity", ["c"], ["go"])], scan=False)
    endless.input[:] = ["", "", "x"]
    model = model_of([endless], {"x": [1, 3, 1, 1]}, ["y"])
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(OnnxError, match="got more than 7 turns"),
    ):
        patch.setattr("lowerconv.onnx.operators.control.LIMIT", 7)
        lowerconv.onnx.load(model)(X[:1, :, :1, :1])
    branch = conditional("c")
    del branch.attribute[next(i for i, a in enumerate(branch.attribute) if a.name[0] == "e")]
    with pytest.raises(OnnxError, match="expected a graph 'else_branch'"):
        lowerconv.onnx.load(model_of([branch], {"x": X.shape}, ["y"], {"c": np.array(True)}))
    few = loop([node("Identity", ["c"], ["go"])])
    del few.input[2]
    with pytest.raises(OnnxError, match="expected a graph 'body' with as many inputs"):
        lowerconv.onnx.load(model_of([few], {"x": X.shape}, ["y"], {"m": np.array(1)}))


def test_unknown_operators_within_branches_are_told():
    then = helper.make_graph(
        [node("Foo", ["x"], ["y"], domain="com.example", name="inner")], "then", [], values("y")
    )
    branch = node("If", ["c"], ["y"], then_branch=then, else_branch=then, name="choice")
    with pytest.raises(OnnxError, match=r"com\.example\.Foo \(inner in choice, inner in choice\)"):
        lowerconv.onnx.load(model_of([branch], {"x": [1]}, ["y"], {"c": np.array(True)}))
