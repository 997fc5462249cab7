"""Importers of operators, by what they do; importing this fills the table of `registry`."""

from lowerconv.onnx.operators import (  # noqa: F401
    convolution,
    elementwise,
    index,
    norm,
    pooling,
    reduction,
    reference,
    resizing,
    shapes,
)
