"""ONNX files: networks from elsewhere, which run and train here.

`load` reads a file; every node becomes layers of `lowerconv.nn`, recorded for each shape of the
inputs as any other network is.
"""

from lowerconv.onnx.network import OnnxNetwork, load
from lowerconv.onnx.reader import OnnxError

__all__ = ["OnnxError", "OnnxNetwork", "load"]
