"""Files of integer networks: operators of codes as float32 ones with conversions around them.

QLinearConv and its kind are read as DequantizeLinear, the operator, QuantizeLinear: one form of all
that quantization tools write.  Of weights that DequantizeLinear makes of constants the codes are
kept, for integer layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lowerconv.nn.codes import WeightCodes
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.onnx.registry import Node

MICROSOFT = "com.microsoft"


class Form(NamedTuple):
    """How an operator of codes is written with one of numbers.

    Attributes
    ----------
    operator : str
        Of numbers.
    operands : tuple of int
        Where operands begin: each is followed by its scale and zero point.
    result : int
        Where scale and zero point of the result are.
    bias : int or None
        Where a bias is, in steps of the product of the first two operands.
    axis : int or None
        Of the second operand, where it has several scales.
    """

    operator: str
    operands: tuple[int, ...]
    result: int
    bias: int | None = None
    axis: int | None = None


FORMS = {
    ("", "QLinearConv"): Form("Conv", (0, 3), 6, 8, 0),
    ("", "QLinearMatMul"): Form("MatMul", (0, 3), 6, None, -1),
    (MICROSOFT, "QGemm"): Form("Gemm", (0, 3), 7, 6, 1),
    (MICROSOFT, "QLinearAdd"): Form("Add", (0, 3), 6),
    (MICROSOFT, "QLinearMul"): Form("Mul", (0, 3), 6),
    (MICROSOFT, "QLinearSigmoid"): Form("Sigmoid", (0,), 3),
    (MICROSOFT, "QLinearLeakyRelu"): Form("LeakyRelu", (0,), 3),
    (MICROSOFT, "QLinearSoftmax"): Form("Softmax", (0,), 3),
    (MICROSOFT, "QLinearAveragePool"): Form("AveragePool", (0,), 3),
    (MICROSOFT, "QLinearGlobalAveragePool"): Form("GlobalAveragePool", (0,), 3),
}
_ELSEWHERE = ("channels_last", "opset")  # attributes that operators of numbers have not


def expanded(onnx: Any, nodes: Iterable[Any], constants: Mapping[str, np.ndarray]) -> list[Any]:
    """Return the nodes of a model, those of codes as several of numbers.

    Parameters
    ----------
    onnx : module
        The package.
    nodes : iterable of NodeProto
    constants : mapping of ndarray
        Initializers: scales are among them, or a node stays as it is.

    Returns
    -------
    list
    """
    found: list[Any] = []
    for i, node in enumerate(nodes):
        key = node.domain, node.op_type
        if key == (MICROSOFT, "QLinearConcat"):
            found += _concatenation(onnx, node, i)
        elif key in ((MICROSOFT, "QuantizeLinear"), (MICROSOFT, "DequantizeLinear")):
            plain = onnx.NodeProto()
            plain.CopyFrom(node)
            plain.domain = ""
            found.append(plain)
        elif key in FORMS and _fits(node, FORMS[key], constants):
            found += _expanded(onnx, node, FORMS[key], i)
        else:
            found.append(node)
    return found


def _fits(node: Any, form: Form, constants: Mapping[str, np.ndarray]) -> bool:
    """Return whether a node has one scale for each tensor, or one for each filter."""
    scales = [constants.get(node.input[at + 1]) for at in form.operands]
    plain = all(
        scale is not None and (scale.size == 1 or (i and scale.ndim == 1))
        for i, scale in enumerate(scales)
    )
    return plain and not any(a.name == "channels_last" and a.i for a in node.attribute)


def _expanded(onnx: Any, node: Any, form: Form, number: int) -> list[Any]:
    make, inputs = onnx.helper.make_node, [*node.input, "", "", ""]
    name = node.name or f"{node.op_type}_{number}"
    found, operands = [], []
    for i, at in enumerate(form.operands):
        operands.append(f"{name}/operand_{i}")
        more = {"axis": _axis(node, form)} if i and form.axis is not None else {}
        given = _trimmed(inputs[at : at + 3])
        found.append(make("DequantizeLinear", given, [operands[-1]], f"{name}/dq_{i}", **more))
    if form.bias is not None and inputs[form.bias]:
        scale, bias = f"{name}/bias_scale", f"{name}/bias"
        scales = [inputs[at + 1] for at in form.operands]
        found.append(make("Mul", scales, [scale], f"{name}/mul"))
        given = [inputs[form.bias], scale]
        found.append(make("DequantizeLinear", given, [bias], f"{name}/dq_bias", axis=0))
        operands.append(bias)
    inner = make(form.operator, operands, [f"{name}/result"], name)
    inner.attribute.extend(a for a in node.attribute if a.name not in _ELSEWHERE)
    found.append(inner)
    given = [f"{name}/result", *_trimmed(inputs[form.result : form.result + 2])]
    if not inputs[form.result]:  # QGemm may return numbers
        inner.output[0] = node.output[0]
        return found
    return [*found, make("QuantizeLinear", given, list(node.output), f"{name}/q")]


def _axis(node: Any, form: Form) -> int | None:
    """Return the axis of the scales of the weights: of QGemm it depends on how these lie."""
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if form.operator == "Gemm" and transposed else form.axis


def _trimmed(names: Sequence[str]) -> list[str]:
    return [name for name in names if name]


def _concatenation(onnx: Any, node: Any, number: int) -> list[Any]:
    make, name = onnx.helper.make_node, node.name or f"{node.op_type}_{number}"
    found, operands = [], []
    for i in range(2, len(node.input), 3):
        operands.append(f"{name}/operand_{i}")
        given = list(node.input[i : i + 3])
        found.append(make("DequantizeLinear", given, [operands[-1]], f"{name}/dq_{i}"))
    inner = make("Concat", operands, [f"{name}/result"], name)
    inner.attribute.extend(node.attribute)
    given = [f"{name}/result", *node.input[:2]]
    return [*found, inner, make("QuantizeLinear", given, list(node.output), f"{name}/q")]


class Codes(NamedTuple):
    """What a constant tensor of float32 numbers was made of."""

    codes: np.ndarray  # less their zero points
    scale: np.ndarray  # one, or one for each item of an axis
    axis: int


def dequantized(nodes: Iterable[Node], constants: Mapping[str, np.ndarray]) -> dict[str, Codes]:
    """Return the codes of constants, by name.

    Parameters
    ----------
    nodes : iterable of Node
    constants : mapping of ndarray
        All of them, those that nodes made of others included.

    Returns
    -------
    dict of str to Codes
    """
    found = {}
    for node in nodes:
        if node.operator != "DequantizeLinear" or node.outputs[0] not in constants:
            continue
        x, scale, *rest = (constants.get(name) for name in node.inputs)
        zero = rest[0] if rest else None
        if x is None or scale is None or x.dtype not in (np.int8, np.uint8):
            continue
        axis = node.get("axis", 1)
        flat = scale.size == 1 or scale.ndim == 1
        if not flat or scale.dtype != np.float32 or node.get("block_size"):
            continue
        shape = [1] * x.ndim
        if scale.size > 1:
            shape[axis] = scale.size
        point = np.zeros(1, np.int16) if zero is None else zero.astype(np.int16)
        codes = x.astype(np.int16) - point.reshape(shape if point.size > 1 else -1)
        if codes.min(initial=0) >= -128 and codes.max(initial=0) <= 127:
            found[node.outputs[0]] = Codes(codes.astype(np.int8), scale.reshape(-1), axis % x.ndim)
    return found


def give_codes(layer: Layer, node: Node, found: Mapping[str, Codes]) -> None:
    """Let a layer have the codes that its weights were made of, where each filter has one scale.

    Parameters
    ----------
    layer : Layer
        That has been made of the node.
    node : Node
    found : mapping of Codes
        By the names of tensors.
    """
    if not isinstance(layer, (Conv2d, Linear)) or node.get("alpha", 1.0) != 1.0:
        return
    known = found.get(node.inputs[1])
    if known is None:
        return
    codes, scale, axis = known
    if not isinstance(layer, Conv2d) and not node.get("transB", 0):
        codes, axis = np.ascontiguousarray(codes.T), 1 - axis
    codes = codes.reshape(layer.weight.data.shape)
    if scale.size == 1 or axis == 0:
        each = np.ascontiguousarray(np.broadcast_to(scale, (len(codes),)))
        layer.codes = WeightCodes(codes, each)
