"""Operators that the reference evaluator of the package onnx computes: seldom, small or dynamic.

Their results depend on the contents of their operands in ways that no layer of ours has, or they
stand where networks do little: recurrent heads, lists of boxes.  `OnnxNetwork.explain` marks them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.onnx.registry import Node, operator


@operator(
    *("LSTM", "GRU", "RNN", "Einsum", "GatherND", "ScatterND", "ScatterElements", "Scatter"),
    *("OneHot", "Trilu", "EyeLike", "BitShift", "ReverseSequence", "Det", "Shrink"),
    how="onnx.reference",
)
def by_reference(node: Node, *operands: Any) -> Any:
    """Import an operator as a call of the reference evaluator."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = [f"operand_{i}" if o is not None else "" for i, o in enumerate(operands)]
    given = [o for o in operands if o is not None]
    proto = helper.make_node(node.operator, names, list(node.outputs))
    proto.attribute.extend(node.proto.attribute)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(o.dtype), list(o.shape))
        for n, o in zip([n for n in names if n], given, strict=True)
    ]
    wanted = [name for name in node.outputs if name]
    outputs = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in wanted]
    graph = helper.make_graph([proto], "single", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.version)])
    session = ReferenceEvaluator(model)

    def result(which: str) -> Any:
        def function(*arrays: np.ndarray) -> np.ndarray:
            feeds = dict(zip([n for n in names if n], arrays, strict=True))
            return np.asarray(session.run([which], feeds)[0])

        return F.computed(node.operator, function, *given)

    return tuple(result(name) if name else None for name in node.outputs)
