"""A network that came from an ONNX file, as such a file again: with what it has learnt."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.nn.conv import Conv2d
from lowerconv.nn.conv_transpose import ConvTranspose2d
from lowerconv.nn.linear import Linear
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.onnx.reader import import_onnx

if TYPE_CHECKING:
    from lowerconv.onnx.network import OnnxNetwork
    from lowerconv.onnx.registry import Node

FORMAT = 9  # of the file
LARGEST = 2**31 - 2**24  # bytes of tensors in a file, which protocol buffers allow 2 GiB


def operands_of(node: Node) -> dict[int, np.ndarray]:
    """Return the operands of a node, by position, that are parameters of its layer."""
    layer = node.layer
    if isinstance(layer, (Conv2d, ConvTranspose2d)):
        weight = layer.weight.data
        axes = len(node.get("kernel_shape") or node.get("strides") or (1, 1))
        found = {1: weight[:, :, 0] if axes == 1 else weight}
        return found | ({2: layer.bias.data} if layer.bias else {})
    if isinstance(layer, BatchNorm2d):
        arrays = layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var
        return dict(enumerate(arrays, 1))
    assert isinstance(layer, Linear)
    weight = layer.weight.data
    if node.operator == "MatMul":
        return {1: weight.T}
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    found = {1: (weight if node.get("transB", 0) else weight.T) / weight.dtype.type(alpha)}
    if layer.bias:
        found[2] = layer.bias.data / layer.bias.data.dtype.type(beta)
    return found


def write(network: OnnxNetwork, path: str | PathLike[str]) -> None:
    """Write a network; see `OnnxNetwork.save_onnx`."""
    onnx = import_onnx()
    # What bodies of nodes have computed of constants is computed by them again.
    read = {name for node in network.nodes for name in node.inputs} | {*network.output_names}
    nodes: list[Any] = []
    constants = {name: array for name, array in network.constants.items() if name in read}
    for node in network.nodes:
        if node.layer is None:
            nodes += node.protos
            continue
        proto = onnx.NodeProto()
        proto.CopyFrom(node.protos[0])
        for i, array in operands_of(node).items():  # names of its own: others may share one
            name = f"{node.name}_{i}_of_{node.inputs[i]}"
            proto.input[i], constants[name] = name, array
        nodes.append(proto)
    tensors = [
        onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in constants.items()
    ]
    inputs, outputs = (
        [onnx.ValueInfoProto.FromString(content) for content in contents]
        for contents in network.declared
    )
    graph = onnx.helper.make_graph(nodes, "network", inputs, outputs, tensors)
    versions = [onnx.helper.make_opsetid(*opset) for opset in network.opsets]
    options = {"producer_name": "lowerconv", "ir_version": FORMAT, "opset_imports": versions}
    model = onnx.helper.make_model(graph, **options)
    onnx.helper.set_model_props(model, network.metadata)
    if sum(array.nbytes for array in constants.values()) <= LARGEST:
        onnx.save_model(model, path)
        return
    data = Path(path).with_name(f"{Path(path).name}.data")
    data.unlink(missing_ok=True)  # what is written is added to what is there
    onnx.save_model(model, path, save_as_external_data=True, location=data.name)
