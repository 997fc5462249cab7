"""GoogLeNet."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, map_size, window


class ConvReLU(nn.Module):
    """A convolution with bias, or with batch normalisation instead, and ReLU."""

    def __init__(
        self, layers: Layers, batch_norm: bool, C: int, K: int, size: int, **geometry: int
    ) -> None:
        super().__init__()
        self.conv = layers.Conv2d(C, K, size, **geometry, bias=not batch_norm)
        self.bn = layers.BatchNorm2d(K, eps=1e-3) if batch_norm else None

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the layers."""
        y = self.conv(x)
        return nn.relu(self.bn(y) if self.bn else y)


class Inception(nn.Module):
    """Four branches on one input, their results side by side (figure 2b).

    `filters` are those of table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
    """

    def __init__(self, layers: Layers, batch_norm: bool, C: int, *filters: int) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, pool = filters

        def conv(C: int, K: int, size: int) -> ConvReLU:
            return ConvReLU(layers, batch_norm, C, K, size, padding=size // 2)

        # torchvision's form, with batch normalisation, has 3x3 where the paper has 5x5.
        large = 3 if batch_norm else 5
        self.branch1 = conv(C, one, 1)
        self.branch2 = nn.Sequential(conv(C, three_reduce, 1), conv(three_reduce, three, 3))
        self.branch3 = nn.Sequential(conv(C, five_reduce, 1), conv(five_reduce, five, large))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(C, pool, 1))

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the module."""
        return nn.concat(self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x))


class Auxiliary(nn.Module):
    """A classifier of maps inside the network, which helps the layers below it to learn."""

    def __init__(
        self, layers: Layers, batch_norm: bool, C: int, rows: int, columns: int, classes: int
    ) -> None:
        super().__init__()
        self.avgpool = nn.AvgPool2d(5, 3)
        self.conv = ConvReLU(layers, batch_norm, C, 128, 1)
        self.fc1 = layers.Linear(128 * rows * columns, 1024)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = layers.Linear(1024, classes)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the classifier."""
        x = self.conv(self.avgpool(x))
        return self.fc2(self.dropout(nn.relu(self.fc1(nn.flatten(x)))))


class GoogLeNet(nn.Module):
    """Nine inception modules; names as in torchvision.

    Szegedy et al., "Going deeper with convolutions" (2015); 13,378,280 parameters on 224x224
    pixels and 1,000 classes, 6,998,552 without the auxiliary classifiers.

    Parameters
    ----------
    image_shape : (C, H, W)
        At least 79x79 pixels with auxiliary classifiers, 47x47 without.
    classes : int
    algorithm : str
        Of the convolutions.
    dtype : dtype-like
    batch_norm : bool
        Whether to take torchvision's form: batch normalisation in place of biases and LRN, 3x3
        filters in place of 5x5, 2x2 windows in the last pooling; 13,004,888 parameters, 6,624,904
        without the auxiliary classifiers. These pool 5x5 pixels with stride 3, as in the paper,
        where torchvision pools adaptively.
    auxiliary : bool
        Whether to have two more classifiers in training, whose losses count 0.3 each. The result of
        a training step is then (scores, of the first, of the second).
    """

    def __init__(
        self,
        image_shape: ImageShape = (3, 224, 224),
        classes: int = 1000,
        algorithm: str = "auto",
        dtype: Any = np.float32,
        batch_norm: bool = False,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        layers = Layers(algorithm, dtype)
        halving = window(3, 2, ceil_mode=True)
        last = window(2 if batch_norm else 3, 2, ceil_mode=True)
        to_4a = window(7, 2, 3), halving, halving, halving
        map_size("googlenet", image_shape, *to_4a, last)

        def conv(C: int, K: int, size: int, stride: int = 1) -> ConvReLU:
            return ConvReLU(layers, batch_norm, C, K, size, stride=stride, padding=size // 2)

        def norm() -> nn.Module | None:
            return None if batch_norm else nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)

        def inception(C: int, *filters: int) -> Inception:
            return Inception(layers, batch_norm, C, *filters)

        self.conv1 = conv(image_shape[0], 64, 7, stride=2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm1 = norm()
        self.conv2 = conv(64, 64, 1)
        self.conv3 = conv(64, 192, 3)
        self.norm2 = norm()
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2 if batch_norm else 3, 2, ceil_mode=True)
        self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.aux1: Auxiliary | None = None
        self.aux2: Auxiliary | None = None
        if auxiliary:
            name = "googlenet with auxiliary classifiers"
            rows, columns = map_size(name, image_shape, *to_4a, window(5, 3))
            self.aux1 = Auxiliary(layers, batch_norm, 512, rows, columns, classes)
            self.aux2 = Auxiliary(layers, batch_norm, 528, rows, columns, classes)
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(0.2 if batch_norm else 0.4)
        self.fc = layers.Linear(1024, classes)

    def forward(self, x: nn.Value) -> nn.Value | tuple[nn.Value, ...]:
        """Record the network.

        Parameters
        ----------
        x : Value
            Images (N, C, H, W).

        Returns
        -------
        Value or tuple of Value
            Scores (N, classes); in training with auxiliary classifiers three of them.
        """
        x = self.maxpool1(self.conv1(x))
        x = self.norm1(x) if self.norm1 else x
        x = self.conv3(self.conv2(x))
        x = self.norm2(x) if self.norm2 else x
        x = self.inception3b(self.inception3a(self.maxpool2(x)))
        of_4a = self.inception4a(self.maxpool3(x))
        of_4d = self.inception4d(self.inception4c(self.inception4b(of_4a)))
        x = self.inception4e(of_4d)
        x = self.inception5b(self.inception5a(self.maxpool4(x)))
        scores = self.fc(self.dropout(nn.flatten(self.avgpool(x))))
        if self.aux1 and self.aux2:
            return scores, self.aux1(of_4a), self.aux2(of_4d)
        return scores
