"""Importers of operators, by what they do; importing this fills the table of `registry`."""

from lowerconv.onnx.operators import (  # noqa: F401
    boxes,
    control,
    convolution,
    elementwise,
    index,
    norm,
    pooling,
    quantized,
    recurrent,
    reduction,
    reference,
    resizing,
    shapes,
)
