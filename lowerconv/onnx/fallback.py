"""ONNX Runtime, where it is installed: what computes the operators that are not known here."""

from __future__ import annotations

from typing import Any

from lowerconv.runtime.threads import get_num_threads

HINT = "needs the package onnxruntime: pip install 'lowerconv[onnxruntime]'"


def open_session(source: Any, what: str) -> Any:
    """Return a session of ONNX Runtime, on as many threads as kernels here have.

    Its threads sleep as soon as they have nothing to do: those that spin would hold the cores that
    whoever computes next needs.

    Parameters
    ----------
    source : path or bytes
        A file, or the content of one.
    what : str
        Who needs it, for the error where ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError(f"{what} {HINT}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = get_num_threads(), 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
