"""Importers of the operators of ATen, which fill the table of `lowerconv.torch.registry`."""

from lowerconv.torch.operators import (
    convolution,
    elementwise,
    norm,
    pooling,
    products,
    resizing,
    shapes,
)

__all__ = ["convolution", "elementwise", "norm", "pooling", "products", "resizing", "shapes"]
