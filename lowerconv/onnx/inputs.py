"""What a network from an ONNX file is given: as many arrays, and such, as the file declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowerconv.checks import plain_array

if TYPE_CHECKING:
    from lowerconv.onnx.network import OnnxNetwork


def check_number(network: OnnxNetwork, xs: tuple[Any, ...]) -> None:
    """Raise TypeError unless there is an array for each input."""
    names = network.input_names
    if len(xs) != len(names):
        raise TypeError(
            f"{network.file}: got {len(xs)} arrays, expected {len(names)}: {', '.join(names)}"
        )


def check_inputs(network: OnnxNetwork, xs: tuple[Any, ...]) -> None:
    """Raise TypeError or ValueError unless arrays are what the file declares."""
    check_number(network, xs)
    rows = zip(xs, network.input_names, network.input_shapes, network.input_dtypes, strict=True)
    for x, name, shape, dtype in rows:
        plain_array(x, name)
        if dtype is not None and x.dtype != dtype:
            raise TypeError(f"{name}: got dtype {x.dtype}, expected {dtype}")
        fits = shape is None or (
            len(shape) == x.ndim
            and all(not isinstance(n, int) or n == m for n, m in zip(shape, x.shape, strict=True))
        )
        if not fits:
            raise ValueError(f"{name}: got shape {x.shape}, expected {shape}")
