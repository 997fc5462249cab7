"""Networks by name, each with the settings to train it from scratch.

A model is called as ``name(image_shape=(C, H, W), classes=..., algorithm="auto", dtype=...)``;
the sizes of its fully connected layers follow from the image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lowerconv.nn.models.alexnet import AlexNet as alexnet
from lowerconv.nn.models.build import ImageShape
from lowerconv.nn.models.cifar10_quick import cifar10_quick
from lowerconv.nn.models.googlenet import GoogLeNet as googlenet
from lowerconv.nn.models.inception_v3 import InceptionV3 as inception_v3
from lowerconv.nn.models.lenet import lenet
from lowerconv.nn.models.nin import nin
from lowerconv.nn.models.resnet import resnet18, resnet20, resnet50, resnet56
from lowerconv.nn.models.vgg import vgg11, vgg16
from lowerconv.nn.module import Module


@dataclass(frozen=True)
class Model:
    """How to build a network, and how to train it when the user does not say.

    Parameters
    ----------
    build : callable
        Given ``image_shape``, ``classes``, ``algorithm`` and ``dtype``, returns the network.
    epochs : int
    batch : int
        Images of a step.
    lr, momentum, weight_decay : float
        Of SGD; `lr` is the learning rate at its highest.
    """

    build: Callable[..., Module]
    epochs: int
    batch: int
    lr: float
    momentum: float
    weight_decay: float

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W) of the images that the network was made for."""
        shape: ImageShape = self._default("image_shape")
        return shape

    @property
    def classes(self) -> int:
        """How many classes the network was made for."""
        return int(self._default("classes"))

    def _default(self, argument: str) -> Any:
        return inspect.signature(self.build).parameters[argument].default


# Those of the papers, of their authors' files for Caffe (lenet, cifar10_quick, nin, googlenet), or
# close to them: here the learning rate falls along a cosine.
MODELS = {
    #                      build  epochs batch lr momentum weight_decay
    "lenet": Model(lenet, 12, 64, 0.02, 0.9, 1e-3),
    "cifar10_quick": Model(cifar10_quick, 10, 50, 0.02, 0.9, 1e-3),
    "nin": Model(nin, 100, 128, 0.05, 0.9, 5e-4),
    "resnet20": Model(resnet20, 164, 128, 0.1, 0.9, 1e-4),
    "resnet56": Model(resnet56, 164, 128, 0.1, 0.9, 1e-4),
    "alexnet": Model(alexnet, 90, 128, 0.01, 0.9, 5e-4),
    "vgg11": Model(vgg11, 74, 256, 0.01, 0.9, 5e-4),
    "vgg16": Model(vgg16, 74, 256, 0.01, 0.9, 5e-4),
    "googlenet": Model(googlenet, 60, 32, 0.01, 0.9, 2e-4),
    "resnet18": Model(resnet18, 90, 256, 0.1, 0.9, 1e-4),
    "resnet50": Model(resnet50, 90, 256, 0.1, 0.9, 1e-4),
    "inception_v3": Model(inception_v3, 100, 32, 0.045, 0.9, 4e-5),
}

__all__ = ["MODELS", "ImageShape", "Model", *MODELS]
