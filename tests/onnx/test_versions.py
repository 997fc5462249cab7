"""Operators in older versions, as files of some years ago have them, against ONNX Runtime."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")
onnxruntime = pytest.importorskip("onnxruntime", reason="computes what is expected")

from onnx import helper  # noqa: E402

import lowerconv.onnx  # noqa: E402

from .networks import model_of  # noqa: E402

RNG = np.random.default_rng(0)
FOUR = {name: np.abs(RNG.standard_normal(4)).astype(np.float32) + 1 for name in "stmv"}
SCALES = {"k": np.array([1, 1, 2, 3], np.float32)}


def integers(**rows) -> dict:
    return {name: np.array(row, np.int64) for name, row in rows.items()}


# Version, operator, attributes, constants.
CASES = [
    (7, "BatchNormalization", {}, FOUR),
    (9, "BatchNormalization", {"epsilon": 1e-3}, FOUR),
    (14, "BatchNormalization", {}, FOUR),
    (7, "Upsample", {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "nearest"}, {}),
    (9, "Upsample", {"mode": "linear"}, SCALES),
    (10, "Resize", {"mode": "linear"}, SCALES),
    (10, "Resize", {"mode": "nearest"}, SCALES),
    (7, "Slice", {"starts": [1, -5], "ends": [3, 1000], "axes": [1, 3]}, {}),
    (10, "Slice", {}, integers(a=[1, -1], b=[4, -100], c=[1, 3], d=[2, -2])),
    (13, "Slice", {}, integers(a=[-3], b=[2**62])),
    (7, "Dropout", {"ratio": 0.3}, {}),
    (12, "Dropout", {}, {"r": np.array(0.3, np.float32)}),
    (7, "Clip", {"min": -0.5, "max": 0.5}, {}),
    (11, "Clip", {}, {"l": np.array(-0.5, np.float32)}),
    (7, "Pad", {"pads": [0, 0, 1, 2, 0, 1, 0, 3], "value": 0.5}, {}),
    (7, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 1, 2], "mode": "reflect"}, {}),
    (11, "Pad", {"mode": "edge"}, integers(p=[0, 0, 1, 2, 0, 1, 0, 3])),
    (18, "Pad", {}, {**integers(p=[1, 2]), "v": np.array(2, np.float32), **integers(a=[-1])}),
    (7, "Unsqueeze", {"axes": [0, 3]}, {}),
    (13, "Unsqueeze", {}, integers(a=[-1, 1])),
    (7, "ReduceSum", {"axes": [1, 2], "keepdims": 0}, {}),
    (13, "ReduceSum", {"keepdims": 0}, integers(a=[-1])),
    (11, "ReduceMean", {"axes": [-1]}, {}),
    (18, "ReduceMean", {}, integers(a=[2, 3])),
    (18, "ReduceMax", {"noop_with_empty_axes": 1}, {}),
    (7, "Softmax", {"axis": 1}, {}),
    (11, "Softmax", {}, {}),
    (13, "Softmax", {}, {}),
    (11, "LogSoftmax", {"axis": 2}, {}),
    (7, "Add", {}, {"b": FOUR["s"].reshape(4, 1, 1)}),
    (7, "Pow", {}, {"b": np.array(2, np.float32)}),
    (12, "Pow", {}, integers(b=3)),
    (7, "Reshape", {}, integers(n=[0, -1, 2])),
    (9, "Flatten", {"axis": 2}, {}),
    (11, "Flatten", {"axis": -1}, {}),
    (7, "Transpose", {"perm": [0, 2, 3, 1]}, {}),
    (21, "Transpose", {}, {}),
    (8, "MaxPool", {"kernel_shape": [2, 3], "strides": [2, 1]}, {}),
    (10, "MaxPool", {"kernel_shape": [2, 2], "ceil_mode": 1, "strides": [2, 2]}, {}),
    (7, "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, {}),
    (19, "AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, {}),
    (7, "PRelu", {}, {"s": FOUR["s"].reshape(4, 1, 1)}),
    (9, "Cast", {"to": onnx.TensorProto.INT32}, {}),
    (7, "HardSigmoid", {"alpha": 0.3}, {}),
    (14, "HardSwish", {}, {}),
    (7, "LRN", {"size": 3, "alpha": 0.1}, {}),
    (7, "DepthToSpace", {"blocksize": 2}, {}),
    (11, "DepthToSpace", {"blocksize": 2, "mode": "CRD"}, {}),
    (8, "Expand", {}, integers(n=[2, 2, 1, 1, 1])),
    (7, "Tile", {}, integers(n=[1, 2, 1, 2])),
    (11, "Gather", {"axis": 2}, integers(i=[[0, -1], [2, 2]])),
    (7, "ArgMax", {"axis": 1, "keepdims": 0}, {}),
    (12, "ArgMin", {"axis": -1, "select_last_index": 1}, {}),
    (11, "CumSum", {"reverse": 1}, integers(a=2)),
    (7, "InstanceNormalization", {}, {"s": FOUR["s"], "t": FOUR["t"]}),
    (17, "LayerNormalization", {"axis": 1}, {"s": np.ones((4, 6, 8), np.float32)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]}-{case[0]}")
def test_versions(case):
    version, operator, attributes, constants = case
    node = helper.make_node(operator, ["x", *constants], ["y"], **attributes)
    model = model_of([node], {"x": [2, 4, 6, 8]}, ["y"], constants, version)
    kinds = {"Cast": "INT32", "ArgMax": "INT64", "ArgMin": "INT64"}
    kind = onnx.TensorProto.DataType.Value(kinds.get(operator, "FLOAT"))
    model.graph.output[0].type.tensor_type.elem_type = kind
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 8)).astype(np.float32)
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    result = lowerconv.onnx.load(model)(x)
    assert result.shape == y.shape and result.dtype == y.dtype
    np.testing.assert_allclose(result, y, rtol=1e-4, atol=1e-5)
