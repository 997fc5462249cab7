"""Caffe's quick network for CIFAR-10."""

from __future__ import annotations

from lowerconv.nn.activation import ReLU
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.combine import Flatten
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Sequential
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d


def cifar10_quick(
    image_shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10, algorithm: str = "auto"
) -> Sequential:
    """Return the network of Caffe's examples (Jia et al., 2014), after Krizhevsky's cuda-convnet.

    Three 5x5 convolutions that keep the image, each followed by pooling that halves it; 145,578
    parameters on 32x32 pixels.
    """
    C, H, W = image_shape
    for _ in range(3):
        H, W = H // 2, W // 2
    return Sequential(
        Conv2d(C, 32, 5, padding=2, algorithm=algorithm),
        MaxPool2d(3, 2, ceil_mode=True),
        ReLU(),
        Conv2d(32, 32, 5, padding=2, algorithm=algorithm),
        ReLU(),
        AvgPool2d(3, 2, ceil_mode=True),
        Conv2d(32, 64, 5, padding=2, algorithm=algorithm),
        ReLU(),
        AvgPool2d(3, 2, ceil_mode=True),
        Flatten(),
        Linear(64 * H * W, 64),
        Linear(64, classes),
    )
