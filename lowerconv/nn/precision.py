"""In which type a network keeps what its layers pass on: half the bytes, where it has 16 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lowerconv.codegen.half_arrays import HALF_DTYPES
from lowerconv.nn.execution_order import ExecutionOrder

if TYPE_CHECKING:
    from lowerconv.nn.graph import Graph

PRECISIONS = ("float32", *HALF_DTYPES)


def store(graph: Graph, precision: str) -> None:
    """Decide how each value of a graph is stored, and its gradient with it.

    Those of float32 between layers are bf16 or fp16; inputs and results are what callers have.

    Raises
    ------
    ValueError
        No such precision, or one for a network whose numbers are not float32.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision: got {precision!r}, expected one of {', '.join(map(repr, PRECISIONS))}"
        )
    if precision == "float32":
        return
    meanwhile = (ExecutionOrder.RIGHT_AFTER_OPERANDS, ExecutionOrder.RIGHT_BEFORE_READERS)
    kept = {*graph.results}
    for node in graph.nodes:  # what is sent while others compute lies where it is sent from
        if node.layer.execution_order in meanwhile:
            kept |= {*node.inputs, node.result}
    for node in graph.nodes:
        value = node.result
        if value.dtype == np.float64:
            raise ValueError(
                f"precision: got {precision!r} with numbers of float64 in {node.name}, expected "
                "a network of float32"
            )
        if value.dtype == np.float32 and value not in kept:
            value.half = precision
