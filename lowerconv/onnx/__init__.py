"""ONNX files: networks from elsewhere, which run and train here.

`load` reads a file; every node becomes layers of `lowerconv.nn`, recorded for each shape of the
inputs as any other network is.
"""

from typing import Any

from lowerconv.onnx.load import load
from lowerconv.onnx.network import OnnxNetwork
from lowerconv.onnx.reader import OnnxError

__all__ = ["Backend", "BackendRep", "OnnxError", "OnnxNetwork", "load"]


def __getattr__(name: str) -> Any:
    """Import the backend where it is used: unlike the rest it needs the package onnx at once."""
    if name in ("Backend", "BackendRep"):
        from lowerconv.onnx import backend

        return getattr(backend, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
