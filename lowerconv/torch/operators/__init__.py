"""Importers of the operators of ATen, which fill the table of `lowerconv.torch.registry`."""

from lowerconv.torch.operators import (
    comparisons,
    convolution,
    elementwise,
    norm,
    pooling,
    products,
    reductions,
    resizing,
    shapes,
)

__all__ = [
    "comparisons",
    "convolution",
    "elementwise",
    "norm",
    "pooling",
    "products",
    "reductions",
    "resizing",
    "shapes",
]
