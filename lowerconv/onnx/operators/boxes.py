"""Operators whose results have a size that depends on contents: lists of boxes and of items."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv.nn import functional as F
from lowerconv.onnx.registry import Node, operator


@operator("NonZero", how="NumPy", dynamic=True)
def non_zero(node: Node, x: Any) -> Any:
    """Import NonZero."""
    return F.computed("non_zero", lambda x: np.stack(np.nonzero(np.atleast_1d(x))), x)


@operator("Compress", how="NumPy", dynamic=True)
def compress(node: Node, x: Any, condition: Any) -> Any:
    """Import Compress."""
    axis = node.get("axis")
    return F.computed("compress", lambda x, c: np.compress(c, x, axis), x, condition)


def _corners(boxes: np.ndarray, centred: bool) -> np.ndarray:
    """Return boxes as (least, most) of both axes."""
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        return np.concatenate([middle - half, middle + half], -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], -1)


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over the union of a box with each of others."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - common
    return np.where(union > 0, common / np.where(union > 0, union, 1), 0)


def suppressed(boxes: np.ndarray, scores: np.ndarray, most: int, iou: float) -> list[int]:
    """Return the boxes to keep, best first: none overlaps a better one by more than `iou`.

    Parameters
    ----------
    boxes : ndarray, (boxes, 4)
    scores : ndarray, (boxes,)
    most : int
        How many to keep.
    iou : float
    """
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[_overlaps(boxes[best], boxes[left]) <= iou]
    return kept


@operator("NonMaxSuppression", since=10, how="NumPy", dynamic=True)
def non_max_suppression(node: Node, boxes: Any, scores: Any, *limits: Any) -> Any:
    """Import NonMaxSuppression."""
    centred = bool(node.get("center_point_box", 0))
    every: list[Any] = [*limits, None, None, None]
    most, iou, least = every[:3]

    def number(value: Any, default: float) -> float:
        return default if value is None else float(np.reshape(value, ()))

    def function(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        count, overlap = int(number(most, 0)), number(iou, 0.0)
        found = []
        for image, corners in enumerate(_corners(boxes, centred)):
            for label, row in enumerate(scores[image]):
                fit = (
                    np.arange(len(row)) if least is None else np.nonzero(row > number(least, 0))[0]
                )
                for i in suppressed(corners[fit], row[fit], count, overlap):
                    found.append((image, label, fit[i]))
        return np.array(found, np.int64).reshape(-1, 3)

    return F.computed("non_max_suppression", function, boxes, scores)
