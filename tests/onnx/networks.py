"""Small ONNX models for tests."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def model_of(nodes, inputs, outputs, constants=None, version=17) -> onnx.ModelProto:
    """Return a model of float32 inputs.

    Parameters
    ----------
    nodes : list of NodeProto
    inputs : dict of str to shape
    outputs : list of str
    constants : dict of str to array
    version : int
        Of the operators.
    """
    known = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in inputs.items()]
    made = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in outputs]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "net", known, made, tensors)
    versions = [helper.make_opsetid("", version)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def small_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a model with the operators of image networks, on (batch, 3, 12, 12)."""

    def weights(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], group=8, pads=[1, 1, 1, 1]),
        node("HardSwish", ["c2"], ["h2"]),
        node("Add", ["h2", "r1"], ["a2"]),
        node("MaxPool", ["a2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["p2", "", "scales"], ["u2"], mode="nearest"),
        node("Concat", ["u2", "r1"], ["cat"], axis=1),
        node("Slice", ["cat", "starts", "ends", "axes"], ["part"]),
        node("GlobalAveragePool", ["part"], ["g"]),
        node("Reshape", ["g", "flat"], ["f"]),
        node("Gemm", ["f", "w3", "b3"], ["s"], transB=1),
        node("Softmax", ["s"], ["y"], axis=1),
    ]
    constants = {
        **{"w1": weights(8, 3, 3, 3), "b1": weights(8), "w2": weights(8, 1, 3, 3)},
        **{"scale": weights(8), "shift": weights(8), "mean": weights(8)},
        "var": np.abs(weights(8)) + np.float32(0.5),
        "scales": np.array([1, 1, 2, 2], np.float32),
        **{"starts": np.array([1]), "ends": np.array([13]), "axes": np.array([1])},
        **{"flat": np.array([0, -1]), "w3": weights(5, 12), "b3": weights(5)},
    }
    return model_of(nodes, {"x": ["batch", 3, 12, 12]}, ["y"], constants, 17)
