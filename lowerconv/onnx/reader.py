"""ONNX files, read and checked: one place for all that may be wrong with them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

Source: TypeAlias = "str | PathLike[str] | bytes | Any"  # or a ModelProto

HINT = "reading ONNX files needs the package onnx: pip install 'lowerconv[onnx]'"


class OnnxError(ValueError):
    """A model that cannot be read or run; the message names the file, and the node where one is."""


def import_onnx() -> Any:
    """Return the package onnx, which is needed here alone."""
    try:
        import onnx
        import onnx.external_data_helper
        import onnx.inliner
        import onnx.numpy_helper
    except ImportError:
        raise ImportError(HINT) from None
    return onnx


def read_model(source: Source) -> tuple[Any, str]:
    """Read a model with its external data.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
        A file, which may be above 2 GB with its data in files beside it; the content of one; or a
        model in memory.

    Returns
    -------
    (ModelProto, str)
        The model, and what to call it in errors.

    Raises
    ------
    OnnxError
        It is no ONNX model, is damaged, or a file of its data is missing or too short.
    OSError
        The file cannot be read.
    ImportError
        The package onnx is not installed.
    """
    onnx = import_onnx()
    if isinstance(source, onnx.ModelProto):
        model, name = source, "model"
    else:
        if isinstance(source, (bytes, bytearray)):
            content, name, directory = bytes(source), "model", None
        elif isinstance(source, (str, PathLike)):
            path = Path(source)
            content, name, directory = path.read_bytes(), str(path), path.parent
        else:
            raise TypeError(
                f"source: got {type(source).__name__}, expected a path, bytes or a ModelProto"
            )
        model = onnx.ModelProto()
        try:
            model.ParseFromString(content)
        except Exception as error:  # of protobuf, whose classes differ by its implementation
            raise OnnxError(f"{name}: not a readable ONNX file ({error})") from None
        if directory is not None:
            try:
                onnx.external_data_helper.load_external_data_for_model(model, str(directory))
            except (OSError, ValueError, onnx.checker.ValidationError) as error:
                raise OnnxError(f"{name}: its external data cannot be read ({error})") from None
    outside = [t.name for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    if outside:
        raise OnnxError(
            f"{name}: the data of tensor {outside[0]!r} is in another file, expected the model as "
            "a path beside it"
        )
    if not model.HasField("graph") or not model.graph.output:
        raise OnnxError(f"{name}: has no graph with outputs, expected an ONNX model")
    if model.functions:
        model = _inlined(onnx, model, name)
    if not any(o.domain in ("", "ai.onnx") for o in model.opset_import):
        raise OnnxError(f"{name}: imports no version of the standard operators")
    return model, name


def _inlined(onnx: Any, model: Any, name: str) -> Any:
    """Return a model with the nodes of its functions in their place."""
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # of C++
        raise OnnxError(f"{name}: its functions cannot be put in their place ({error})") from None


def opset_of(model: Any) -> int:
    """Return the version of the standard operators."""
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
