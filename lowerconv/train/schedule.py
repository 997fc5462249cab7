"""How the learning rate changes during a run.

A *step* here is an update of the weights, counted from 0 over the whole run.
"""

from collections.abc import Sequence
from math import cos, pi

from lowerconv.train.settings import Settings


def cosine(lr: float, step: int, steps: int) -> float:
    """Return the learning rate of one step: from `lr` down to zero along half a cosine.

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts" (2017), section 3,
    without the restarts.
    """
    return lr * (1 + cos(pi * step / steps)) / 2


def poly(lr: float, step: int, steps: int, power: float) -> float:
    """Return the learning rate of one step: from `lr` down to zero along a power of what is left.

    As in Caffe; with power 2, You, Gitman, Ginsburg, "Large batch training of convolutional
    networks" (2017), section 6.
    """
    return lr * (1 - step / steps) ** power


def drops(lr: float, epoch: int, milestones: Sequence[int], gamma: float) -> float:
    """Return the learning rate of an epoch (from 0): `lr` times `gamma` for each milestone passed.

    He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2016), section 3.4.
    """
    return lr * gamma ** sum(epoch >= milestone for milestone in milestones)


def usual_milestones(epochs: int) -> tuple[int, ...]:
    """Return 30, 60 and 80 of 90 epochs, and the same fractions of any other number.

    Goyal et al., "Accurate, large minibatch SGD" (2017), section 5.1.
    """
    chosen = {round(epochs * part / 9) for part in (3, 6, 8)}
    return tuple(sorted(chosen - {0, epochs}))


def scaled(lr: float, samples: int, scale_from: int | None) -> float:
    """Return the learning rate for updates of `samples` samples, where `lr` is for `scale_from`.

    The linear scaling rule of Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.1.
    """
    return lr if scale_from is None else lr * samples / scale_from


def rise(start: float, peak: float, step: int, steps: int) -> float:
    """Return the learning rate of a step of warm-up: by equal amounts up to `peak` in the last.

    Goyal et al., "Accurate, large minibatch SGD" (2017), section 2.2.
    """
    return start + (peak - start) * (step + 1) / steps


def learning_rate(settings: Settings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    Warm-up rises from zero, or from `lr` where the peak is scaled above it. ``cosine`` and ``poly``
    fall over the steps that warm-up leaves; ``step`` counts its epochs from the beginning.
    """
    peak = scaled(settings.lr, settings.update_batch, settings.scale_lr_from)
    warm = round(settings.warmup * steps_per_epoch)
    if step < warm:
        return rise(settings.lr if peak > settings.lr else 0.0, peak, step, warm)
    left = settings.epochs * steps_per_epoch - warm
    if settings.schedule == "cosine":
        return cosine(peak, step - warm, left)
    if settings.schedule == "poly":
        return poly(peak, step - warm, left, settings.power)
    if settings.schedule == "step":
        milestones = settings.milestones or usual_milestones(settings.epochs)
        return drops(peak, step // steps_per_epoch, milestones, settings.gamma)
    return peak
