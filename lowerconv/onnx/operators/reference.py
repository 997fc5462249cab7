"""Operators that the reference evaluator of the package onnx computes: seldom, small or dynamic.

Their results depend on the contents of their operands in ways that no layer of ours has, or they
stand where networks do little: recurrent heads, lists of boxes.  `OnnxNetwork.explain` marks them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.onnx.registry import Node, operator

# Operands of ones are no numbers of images, and no zero points of 8-bit floating point.
_TRIALS = {"RoiAlign": 0, "DequantizeLinear": 0}
_COMPUTED = (
    *("Einsum", "GatherND", "ScatterND", "ScatterElements", "Scatter", "EyeLike", "BitShift"),
    *("ReverseSequence", "Det", "Shrink", "GridSample", "RoiAlign", "DeformConv"),
    *("QLinearMatMul", "QLinearConv"),  # where they are not read as other operators
    *("Attention", "RotaryEmbedding", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"),
)
# Positions of operands whose contents the shape of the result depends on.
_LOOKED_AT = {
    "AffineGrid": (1,),
    "OneHot": (1,),
    "Trilu": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "MaxUnpool": (2,),
    "DFT": (1, 2),
    "STFT": (1, 3),
    "BlackmanWindow": (0,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "CumProd": (1,),
}


def by_reference(node: Node, *operands: Any) -> Any:
    """Import an operator as a call of the reference evaluator."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = [f"operand_{i}" if o is not None else "" for i, o in enumerate(operands)]
    given = [o for o in operands if o is not None]
    name = "ScatterElements" if node.operator == "Scatter" else node.operator  # its later name
    proto = helper.make_node(name, names, list(node.outputs))
    proto.attribute.extend(node.protos[0].attribute)
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(o.dtype), list(o.shape))
        for n, o in zip([n for n in names if n], given, strict=True)
    ]
    wanted = [name for name in node.outputs if name]
    outputs = [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in wanted]
    graph = helper.make_graph([proto], "single", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", max(node.version, 11))])
    session = ReferenceEvaluator(model)

    def result(which: str) -> Any:
        def function(*arrays: np.ndarray) -> np.ndarray:
            feeds: dict[str, Any] = dict(zip([n for n in names if n], arrays, strict=True))
            found: Any = session.run([which], feeds)
            return np.asarray(found[0])

        return F.computed(node.operator, function, *given, trial=_TRIALS.get(node.operator, 1))

    return tuple(result(name) if name else None for name in node.outputs)


for _name in _COMPUTED:
    operator(_name, how="onnx.reference")(by_reference)
for _name, _positions in _LOOKED_AT.items():
    operator(_name, how="onnx.reference", contents=_positions)(by_reference)
operator("Unique", how="onnx.reference", dynamic=True)(by_reference)
