"""Batch norm folded into the convolution before it: of a network whose parameters stay."""

from __future__ import annotations

from copy import copy

import numpy as np

from lowerconv.nn.conv import Conv2d
from lowerconv.nn.graph import Graph
from lowerconv.nn.norm import BatchNorm2d


def fold_batch_norm(graph: Graph) -> None:
    """Replace every batch norm that follows a convolution by other filters and another bias.

    ``norm(conv(x, w) + b) = conv(x, w * scale) + (b * scale + shift)``, for each filter.
    """
    readers = graph.consumers()
    for node in list(graph.nodes):
        maker = node.operands[0].node
        if not isinstance(node.layer, BatchNorm2d) or maker is None:
            continue
        alone = readers[node.operands[0]] == [node] and node.operands[0] not in graph.results
        if not isinstance(maker.layer, Conv2d) or not alone:
            continue
        maker.layer = folded(maker.layer, node.layer)
        node.result.node = maker
        maker.result = node.result
        graph.nodes.remove(maker)
        graph.nodes[graph.nodes.index(node)] = maker


def folded(conv: Conv2d, norm: BatchNorm2d) -> Conv2d:
    """Return a convolution that does what `conv` and then `norm` do at inference."""
    weight = conv.weight.data
    scale, shift = norm.scale_and_shift()
    bias = conv.bias.data.astype(np.float64) if conv.bias else 0.0
    both = copy(conv)
    both.weight = type(conv.weight)((weight * scale[:, None, None, None]).astype(weight.dtype))
    both.bias = type(conv.weight)((bias * scale + shift).astype(weight.dtype))
    return both
