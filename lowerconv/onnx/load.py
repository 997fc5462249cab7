"""`load`: a network from an ONNX file."""

from __future__ import annotations

from lowerconv.onnx.network import OnnxNetwork
from lowerconv.onnx.reader import Source, read_model


def load(source: Source, *, trainable: bool = False, fallback: str | None = None) -> OnnxNetwork:
    """Return the network of an ONNX file.

    Parameters
    ----------
    source : path, bytes or onnx.ModelProto
    trainable : bool
        Whether its parameters can be learnt.  Else they are read-only, which lets kernels keep them
        packed: the network answers as fast as one that was compiled.
    fallback : "onnxruntime", optional
        What computes nodes whose operators are not known here; they have no gradients.

    Returns
    -------
    OnnxNetwork
        Called with arrays, one for each input, it returns an array, or a tuple of all outputs.

    Raises
    ------
    OnnxError
        The file is damaged, or has operators that are not known here: all are listed.
    OSError, ImportError
        The file cannot be read; the package onnx, or onnxruntime for `fallback`, is not installed.

    Examples
    --------
    >>> net = lowerconv.onnx.load("model.onnx")  # doctest: +SKIP
    >>> net(images)  # doctest: +SKIP
    """
    if fallback not in (None, "onnxruntime"):
        raise ValueError(f"fallback: got {fallback!r}, expected 'onnxruntime' or None")
    model, name = read_model(source)
    return OnnxNetwork(model, name, trainable, fallback is not None)
