"""Residual networks: for images of 224x224 pixels, and for CIFAR."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, described, map_size

# All of He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2016); names as in
# torchvision. A shortcut that changes its shape is a projection (option B of section 3.3), in
# the networks for CIFAR too, which the paper built with zero-padded shortcuts (option A).


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (figure 5, left)."""

    expansion = 1

    def __init__(self, layers: Layers, C: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = layers.Conv2d(C, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = layers.BatchNorm2d(width)
        self.conv2 = layers.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = layers.BatchNorm2d(width)
        self.downsample = shortcut(layers, C, width, stride)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the block."""
        y = nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nn.relu(y + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, beside a shortcut (figure 5, right).

    The stride is that of the 3x3 convolution, as in torchvision ("v1.5"); the paper has it in the
    1x1 before.
    """

    expansion = 4

    def __init__(self, layers: Layers, C: int, width: int, stride: int) -> None:
        super().__init__()
        K = width * self.expansion
        self.conv1 = layers.Conv2d(C, width, 1, bias=False)
        self.bn1 = layers.BatchNorm2d(width)
        self.conv2 = layers.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = layers.BatchNorm2d(width)
        self.conv3 = layers.Conv2d(width, K, 1, bias=False)
        self.bn3 = layers.BatchNorm2d(K)
        self.downsample = shortcut(layers, C, K, stride)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the block."""
        y = nn.relu(self.bn1(self.conv1(x)))
        y = nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nn.relu(y + (self.downsample(x) if self.downsample else x))


def shortcut(layers: Layers, C: int, K: int, stride: int) -> nn.Module | None:
    """Return the projection of a shortcut, None where its shape stays."""
    if C == K and stride == 1:
        return None
    return nn.Sequential(layers.Conv2d(C, K, 1, stride=stride, bias=False), layers.BatchNorm2d(K))


def stage(
    layers: Layers,
    block: type[BasicBlock] | type[Bottleneck],
    C: int,
    width: int,
    number: int,
    stride: int = 1,
) -> nn.Sequential:
    """Return blocks of one width; the first may change channels and size of the maps."""
    K = width * block.expansion
    first = block(layers, C, width, stride)
    return nn.Sequential(first, *(block(layers, K, width, 1) for _ in range(number - 1)))


class ResNet(nn.Module):
    """The networks of table 1.

    Parameters
    ----------
    block : type
        BasicBlock or Bottleneck.
    blocks : (int, int, int, int)
        How many each stage has.
    image_shape : (C, H, W)
        Any number of pixels.
    classes : int
    algorithm : str
        Of the convolutions.
    dtype : dtype-like
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, int, int, int],
        image_shape: ImageShape,
        classes: int,
        algorithm: str,
        dtype: Any,
    ) -> None:
        super().__init__()
        layers = Layers(algorithm, dtype)
        map_size("resnet", image_shape)
        wider = block.expansion
        self.conv1 = layers.Conv2d(image_shape[0], 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = layers.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(layers, block, 64, 64, blocks[0])
        self.layer2 = stage(layers, block, 64 * wider, 128, blocks[1], stride=2)
        self.layer3 = stage(layers, block, 128 * wider, 256, blocks[2], stride=2)
        self.layer4 = stage(layers, block, 256 * wider, 512, blocks[3], stride=2)
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = layers.Linear(512 * wider, classes)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the network for images x (N, C, H, W)."""
        x = self.maxpool(nn.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(nn.flatten(self.avgpool(x)))


class CifarResNet(nn.Module):
    """The networks of section 4.2, of 6n + 2 layers.

    Parameters
    ----------
    blocks : int
        Of each stage: n.
    image_shape : (C, H, W)
        Any number of pixels.
    classes : int
    algorithm : str
        Of the convolutions.
    dtype : dtype-like
    """

    def __init__(
        self, blocks: int, image_shape: ImageShape, classes: int, algorithm: str, dtype: Any
    ) -> None:
        super().__init__()
        layers = Layers(algorithm, dtype)
        map_size("resnet", image_shape)
        self.conv1 = layers.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)
        self.bn1 = layers.BatchNorm2d(16)
        self.layer1 = stage(layers, BasicBlock, 16, 16, blocks)
        self.layer2 = stage(layers, BasicBlock, 16, 32, blocks, stride=2)
        self.layer3 = stage(layers, BasicBlock, 32, 64, blocks, stride=2)
        self.avgpool = nn.GlobalAvgPool2d()
        self.fc = layers.Linear(64, classes)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the network for images x (N, C, H, W)."""
        x = nn.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(nn.flatten(self.avgpool(x)))


@described()
def resnet20(
    image_shape: ImageShape = (3, 32, 32),
    classes: int = 10,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> CifarResNet:
    """Return the network of 20 layers for CIFAR-10, with projections: 272,474 parameters."""
    return CifarResNet(3, image_shape, classes, algorithm, dtype)


@described()
def resnet56(
    image_shape: ImageShape = (3, 32, 32),
    classes: int = 10,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> CifarResNet:
    """Return the network of 56 layers for CIFAR-10, with projections: 855,770 parameters."""
    return CifarResNet(9, image_shape, classes, algorithm, dtype)


@described()
def resnet18(
    image_shape: ImageShape = (3, 224, 224),
    classes: int = 1000,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> ResNet:
    """Return the network of 18 layers: 11,689,512 parameters."""
    return ResNet(BasicBlock, (2, 2, 2, 2), image_shape, classes, algorithm, dtype)


@described()
def resnet50(
    image_shape: ImageShape = (3, 224, 224),
    classes: int = 1000,
    algorithm: str = "auto",
    dtype: Any = np.float32,
) -> ResNet:
    """Return the network of 50 layers: 25,557,032 parameters."""
    return ResNet(Bottleneck, (3, 4, 6, 3), image_shape, classes, algorithm, dtype)
