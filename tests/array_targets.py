"""Every function that takes arrays of users, with arrays that are right."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import lowerconv as lc
from lowerconv import nn
from lowerconv.data import Augment, Dataset, Loader, Normalizer, change_image

RNG = np.random.default_rng(0)


UNTOUCHED = 7.0


def floats(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2, shape).astype(np.float32)


def bytes_(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2, shape, np.uint8)


def untouched(*shape: int) -> np.ndarray:
    return np.full(shape, UNTOUCHED, np.float32)


class Target(NamedTuple):
    """An argument that takes an array.

    Attributes
    ----------
    argument : str
        As messages name it.
    good : ndarray
        A right one, of zeros and ones: all types of numbers have these.
    call : callable
        Given an array, returns what is made of it.
    written : sequence of ndarray
        What a call writes to.
    """

    argument: str
    good: np.ndarray
    call: Callable[[Any], Any]
    written: tuple[np.ndarray, ...] = ()


X, W, DY, BIAS = floats(2, 4, 6, 5), floats(6, 4, 3, 2), floats(2, 6, 4, 4), floats(6)


TRAINING = nn.Step(training=True, input_grad=True)


def convolutions() -> dict[str, Target]:
    plan = lc.plan_conv2d(X.shape, W.shape, bias=True)
    adding = lc.plan_conv2d(X.shape, W.shape, accumulate=True)

    def with_out(out: Any) -> Any:
        lc.conv2d(X, W, out=out)
        return out

    def added(out: Any) -> Any:
        if isinstance(out, np.ndarray) and out.flags.writeable and out.dtype == np.float32:
            out[...] = 1
        adding(X, W, out=out)
        return out

    return {
        "conv2d-x": Target("x", X, lambda a: lc.conv2d(a, W)),
        "conv2d-w": Target("w", W, lambda a: lc.conv2d(X, a)),
        "conv2d-bias": Target("bias", BIAS, lambda a: lc.conv2d(X, W, a)),
        "conv2d-out": Target("out", untouched(*DY.shape), with_out),
        "conv2d_input_grad-dy": Target("dy", DY, lambda a: lc.conv2d_input_grad(a, W, X.shape)),
        "conv2d_input_grad-w": Target("w", W, lambda a: lc.conv2d_input_grad(DY, a, X.shape)),
        "conv2d_weight_grad-dy": Target("dy", DY, lambda a: lc.conv2d_weight_grad(a, X, W.shape)),
        "conv2d_weight_grad-x": Target("x", X, lambda a: lc.conv2d_weight_grad(DY, a, W.shape)),
        "plan-x": Target("x", X, lambda a: plan(a, W, BIAS)),
        "plan-w": Target("w", W, lambda a: plan(X, a, BIAS)),
        "plan-bias": Target("bias", BIAS, lambda a: plan(X, W, a)),
        "plan-out": Target("out", untouched(*DY.shape), added),
    }


def networks() -> dict[str, Target]:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5)
    )
    x = floats(4, 3, 6, 6)
    relu = nn.Sequential(nn.ReLU(), nn.AvgPool2d(3))
    infer = net.compile(x.shape)
    gradients = tuple(parameter.grad for parameter in net.parameters().values())

    def backward(dy: Any) -> Any:
        net.run(x, TRAINING)
        net.backward(dy)
        return [gradient.copy() for gradient in gradients]

    scores, labels = floats(6, 4), RNG.integers(0, 2, 6)

    def loss(scores: Any, labels: Any) -> list[Any]:
        result = nn.softmax_cross_entropy(scores, labels)
        return [result.loss, result.correct, result.gradient]

    def load(bias: Any) -> np.ndarray:
        linear = nn.Linear(2, 3)
        linear.load({"weight": linear.weight.data, "bias": bias})
        return linear.bias.data

    return {
        "run-x": Target("x", x, lambda a: net.run(a).copy()),
        "call-x": Target("x", x, net),
        "infer-x": Target("x", x, lambda a: infer(a).copy()),
        "relu-x": Target("x", x, relu),
        "backward-dy": Target("dy", floats(4, 5), backward, gradients),
        "loss-scores": Target("scores", scores, lambda a: loss(a, labels)),
        "loss-labels": Target("labels", labels, lambda a: loss(scores, a)),
        "load-tensor": Target("'bias'", floats(3), load),
        "Parameter-data": Target("data", floats(3, 2), lambda a: nn.Parameter(a).data),
    }


def optimizers() -> dict[str, Target]:
    def target(make: Callable[[nn.Module], nn.Optimizer]) -> Target:
        optimizer = make(nn.Linear(3, 2))

        def update(grad: Any) -> np.ndarray:
            optimizer.data[...] = 1
            for kept in optimizer.state().values():
                kept[...] = 0
            optimizer.updates = 1
            optimizer.update(0, optimizer.data.size, grad)
            return optimizer.data.copy()

        update(floats(8))
        return Target("grad", floats(8), update)

    return {
        "SGD": target(lambda net: nn.SGD(net, 0.1, 0.9)),
        "Adam": target(lambda net: nn.Adam(net, 0.1)),
        "LARS": target(lambda net: nn.LARS(net, 0.1)),
    }


def data_sets() -> dict[str, Target]:
    images, labels, classes = bytes_(5, 3, 4, 6), RNG.integers(0, 2, 5), ("a", "b")
    normalizer = Normalizer(images)
    augment = Augment(crop=12, flip=50, rotate=5)

    def dataset(images: Any, labels: Any) -> list[Any]:
        made = Dataset("d", images, labels, classes)
        (batch,) = Loader(made, normalizer, 5).batches()
        return [batch.images, batch.labels, made.histogram()]

    def table(mean: Any, deviation: Any) -> np.ndarray:
        return Normalizer.of(mean, deviation).table

    return {
        "Dataset-images": Target("images", images, lambda a: dataset(a, labels)),
        "Dataset-labels": Target("labels", labels, lambda a: dataset(images, a)),
        "Normalizer": Target("images", images, lambda a: Normalizer(a).table),
        "normalize-images": Target("images", images, lambda a: normalizer(a, np.array([3, 0]))),
        "normalize-indices": Target(
            "indices", RNG.integers(0, 2, 5), lambda a: normalizer(images, a)
        ),
        "Normalizer.of-mean": Target("mean", np.eye(1, 3)[0], lambda a: table(a, np.ones(3))),
        "Normalizer.of-deviation": Target(
            "deviation", np.eye(1, 3)[0], lambda a: table(np.zeros(3), a)
        ),
        "change_image": Target("image", images[0], lambda a: change_image(a, angle=20, lens=0.2)),
        "change_image-cast": Target(
            "cast", np.array([0, 1, 1]), lambda a: change_image(images[0], cast=a)
        ),
        "augment": Target("image", images[0], lambda a: augment(a, seed=3)),
    }


TARGETS = convolutions() | networks() | optimizers() | data_sets()
