"""Softmax cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lowerconv.checks import integer, plain_array
from lowerconv.codegen.ranges import share
from lowerconv.conv.arrays import contiguous
from lowerconv.conv.problem import DTYPES
from lowerconv.runtime.launch import parallel
from lowerconv.runtime.threads import run

# Weight of an auxiliary loss: Szegedy et al., "Going deeper with convolutions" (2015), section 5.
AUXILIARY = 0.3


class _Results(NamedTuple):
    losses: np.ndarray
    correct: np.ndarray
    gradient: np.ndarray


@parallel
def _softmax_cross_entropy(worker, workers, scores, labels, smoothing, scale, results):
    losses, correct, gradient = results
    N, classes = scores.shape
    first, last = share(N, worker, workers)
    others = smoothing / classes  # the target of a class that is not the sample's own
    for n in range(first, last):
        largest, at = scores[n, 0], 0
        for i in range(1, classes):
            if scores[n, i] > largest:
                largest, at = scores[n, i], i
        # The largest is taken off, so that no exponential overflows.
        total = 0.0
        for i in range(classes):
            total += np.exp(np.float64(scores[n, i] - largest))
        label = labels[n]
        losses[n] = np.log(total) - (1.0 - smoothing) * (scores[n, label] - largest)
        correct[n] = at == label
        if smoothing > 0.0:  # else a score of minus infinity would make it 0 * inf
            for i in range(classes):
                losses[n] -= others * (scores[n, i] - largest)
        for i in range(classes):
            part = np.exp(np.float64(scores[n, i] - largest)) / total
            target = others + (1.0 - smoothing if i == label else 0.0)
            gradient[n, i] = (part - target) * scale


@dataclass(frozen=True)
class LossResult:
    """The loss of some samples.

    Parameters
    ----------
    loss : float
        Summed over the samples, in nats.
    correct : int
        How many samples scored highest in their own class.
    gradient : ndarray, (N, classes)
        Of ``loss / batch`` with respect to the scores.
    """

    loss: float
    correct: int
    gradient: np.ndarray


def softmax_cross_entropy(
    scores: np.ndarray,
    labels: np.ndarray,
    batch: int | None = None,
    label_smoothing: float = 0.0,
) -> LossResult:
    """Return the cross-entropy of softmax(scores) against the labels, and its gradient.

    Parameters
    ----------
    scores : ndarray, (N, classes), float32 or float64
    labels : ndarray, (N,), integers of any kind
        Class numbers from 0.
    batch : int, optional
        What the gradient is divided by: N unless these samples are one rank's share of a larger
        batch.
    label_smoothing : float
        Share of the target that is spread over all classes alike, as in PyTorch. Szegedy et al.,
        "Rethinking the Inception architecture for computer vision" (2016), section 7.

    Returns
    -------
    LossResult

    Raises
    ------
    TypeError
        What is no array, is masked, or has numbers of another kind.
    ValueError
        Shapes that do not fit, a label that is no class, or smoothing outside 0 to 1.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: got {label_smoothing}, expected from 0 to 1")
    if batch is not None:
        batch = integer(batch, "batch", 1)
    scores = _check_scores(scores)
    labels = _check_labels(labels, *scores.shape)
    N = len(scores)
    results = _Results(np.empty(N), np.empty(N, np.bool_), np.empty_like(scores))
    scale = 1.0 / (batch or max(1, N))
    run(_softmax_cross_entropy, scores, labels, float(label_smoothing), scale, results)
    return LossResult(float(results.losses.sum()), int(results.correct.sum()), results.gradient)


def _check_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores as the kernel takes them."""
    if plain_array(scores, "scores").dtype not in DTYPES:
        raise TypeError(f"scores: got dtype {scores.dtype}, expected float32 or float64")
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores: got shape {scores.shape}, expected (N, classes)")
    return contiguous(scores, "scores")


def _check_labels(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Return labels as the kernel takes them, which looks up scores with them."""
    if plain_array(labels, "labels").dtype.kind not in "iu":
        raise TypeError(f"labels: got dtype {labels.dtype}, expected integers")
    if labels.shape != (count,):
        raise ValueError(
            f"labels: got shape {labels.shape}, expected ({count},), one for each row of scores"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"labels: got {labels.min()} to {labels.max()}, expected 0 to {classes - 1}"
        )
    return contiguous(labels.astype(np.int64, copy=False), "labels")


def network_loss(
    results: np.ndarray | tuple[np.ndarray, ...],
    labels: np.ndarray,
    batch: int | None = None,
    label_smoothing: float = 0.0,
) -> tuple[LossResult, tuple[np.ndarray, ...]]:
    """Return the loss of what `Module.run` returns in training, and the gradients of all of that.

    Auxiliary scores have losses of their own, which count `AUXILIARY` in the gradients and are not
    part of the loss that is returned.  Arguments as for `softmax_cross_entropy`.
    """
    scores, *auxiliary = results if isinstance(results, tuple) else (results,)
    loss = softmax_cross_entropy(scores, labels, batch, label_smoothing)
    gradients = [loss.gradient]
    for other in auxiliary:
        gradient = softmax_cross_entropy(other, labels, batch, label_smoothing).gradient
        gradient *= gradient.dtype.type(AUXILIARY)
        gradients.append(gradient)
    return loss, tuple(gradients)
