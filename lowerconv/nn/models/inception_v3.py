"""Inception-v3: inception modules whose larger convolutions are factorised."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, map_size, window


class ConvNormReLU(nn.Module):
    """A convolution, batch normalisation and ReLU."""

    def __init__(
        self, layers: Layers, C: int, K: int, size: int | tuple[int, int], **geometry: Any
    ) -> None:
        super().__init__()
        self.conv = layers.Conv2d(C, K, size, **geometry, bias=False)
        self.bn = layers.BatchNorm2d(K, eps=1e-3)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the layers."""
        return nn.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """What all modules share: a way to make their convolutions."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self._layers = layers

    def conv(self, C: int, K: int, R: int, S: int | None = None, stride: int = 1) -> ConvNormReLU:
        """Return a convolution of R x S (R x R) pixels; with a stride of 1 it keeps the size."""
        S = R if S is None else S
        padding = (R // 2, S // 2) if stride == 1 else 0
        return ConvNormReLU(self._layers, C, K, (R, S), stride=stride, padding=padding)


class InceptionA(Block):
    """5x5 beside two 3x3 in a row, on maps of 35x35 (figure 5 of the paper)."""

    def __init__(self, layers: Layers, C: int, pool_features: int) -> None:
        super().__init__(layers)
        self.branch1x1 = self.conv(C, 64, 1)
        self.branch5x5_1 = self.conv(C, 48, 1)
        self.branch5x5_2 = self.conv(48, 64, 5)
        self.branch3x3dbl_1 = self.conv(C, 64, 1)
        self.branch3x3dbl_2 = self.conv(64, 96, 3)
        self.branch3x3dbl_3 = self.conv(96, 96, 3)
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.branch_pool = self.conv(C, pool_features, 1)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the module."""
        return nn.concat(
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(self.pool(x)),
        )


class InceptionB(Block):
    """From 35x35 to 17x17 by convolutions with stride 2 beside pooling (figure 10)."""

    def __init__(self, layers: Layers, C: int) -> None:
        super().__init__(layers)
        self.branch3x3 = self.conv(C, 384, 3, stride=2)
        self.branch3x3dbl_1 = self.conv(C, 64, 1)
        self.branch3x3dbl_2 = self.conv(64, 96, 3)
        self.branch3x3dbl_3 = self.conv(96, 96, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the module."""
        return nn.concat(
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.pool(x),
        )


class InceptionC(Block):
    """7x7 as 1x7 and 7x1, on maps of 17x17 (figure 6)."""

    def __init__(self, layers: Layers, C: int, c7: int) -> None:
        super().__init__(layers)
        self.branch1x1 = self.conv(C, 192, 1)
        self.branch7x7_1 = self.conv(C, c7, 1)
        self.branch7x7_2 = self.conv(c7, c7, 1, 7)
        self.branch7x7_3 = self.conv(c7, 192, 7, 1)
        self.branch7x7dbl_1 = self.conv(C, c7, 1)
        self.branch7x7dbl_2 = self.conv(c7, c7, 7, 1)
        self.branch7x7dbl_3 = self.conv(c7, c7, 1, 7)
        self.branch7x7dbl_4 = self.conv(c7, c7, 7, 1)
        self.branch7x7dbl_5 = self.conv(c7, 192, 1, 7)
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.branch_pool = self.conv(C, 192, 1)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the module."""
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return nn.concat(
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(self.pool(x)),
        )


class InceptionD(Block):
    """From 17x17 to 8x8 by convolutions with stride 2 beside pooling."""

    def __init__(self, layers: Layers, C: int) -> None:
        super().__init__(layers)
        self.branch3x3_1 = self.conv(C, 192, 1)
        self.branch3x3_2 = self.conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = self.conv(C, 192, 1)
        self.branch7x7x3_2 = self.conv(192, 192, 1, 7)
        self.branch7x7x3_3 = self.conv(192, 192, 7, 1)
        self.branch7x7x3_4 = self.conv(192, 192, 3, stride=2)
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the module."""
        large = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return nn.concat(
            self.branch3x3_2(self.branch3x3_1(x)), self.branch7x7x3_4(large), self.pool(x)
        )


class InceptionE(Block):
    """3x3 as 1x3 beside 3x1, on maps of 8x8 (figure 7)."""

    def __init__(self, layers: Layers, C: int) -> None:
        super().__init__(layers)
        self.branch1x1 = self.conv(C, 320, 1)
        self.branch3x3_1 = self.conv(C, 384, 1)
        self.branch3x3_2a = self.conv(384, 384, 1, 3)
        self.branch3x3_2b = self.conv(384, 384, 3, 1)
        self.branch3x3dbl_1 = self.conv(C, 448, 1)
        self.branch3x3dbl_2 = self.conv(448, 384, 3)
        self.branch3x3dbl_3a = self.conv(384, 384, 1, 3)
        self.branch3x3dbl_3b = self.conv(384, 384, 3, 1)
        self.pool = nn.AvgPool2d(3, 1, padding=1)
        self.branch_pool = self.conv(C, 192, 1)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the module."""
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return nn.concat(
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        )


class InceptionAux(nn.Module):
    """A classifier of the maps of 17x17, which helps the layers below it to learn (figure 8)."""

    def __init__(self, layers: Layers, C: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(5, 3)
        self.conv0 = ConvNormReLU(layers, C, 128, 1)
        self.conv1 = ConvNormReLU(layers, 128, 768, 5)
        self.mean = nn.GlobalAvgPool2d()
        self.fc = layers.Linear(768, classes)

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the classifier."""
        return self.fc(nn.flatten(self.mean(self.conv1(self.conv0(self.pool(x))))))


class InceptionV3(nn.Module):
    """Eleven modules on maps of 35x35, 17x17 and 8x8; names as in torchvision.

    Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception architecture for computer
    vision" (2016), in the sizes that its authors published; 27,161,264 parameters with 1,000
    classes, 23,834,568 without the auxiliary classifier.

    Parameters
    ----------
    image_shape : (C, H, W)
        At least 299x299 pixels with the auxiliary classifier, 75x75 without.
    classes : int
    algorithm : str
        Of the convolutions.
    dtype : dtype-like
    auxiliary : bool
        Whether to have one more classifier in training, whose loss counts 0.3. The result of a
        training step is then (scores, its scores).
    """

    def __init__(
        self,
        image_shape: ImageShape = (3, 299, 299),
        classes: int = 1000,
        algorithm: str = "auto",
        dtype: Any = np.float32,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        layers = Layers(algorithm, dtype)
        halving = window(3, 2)
        to_17 = halving, window(3, 1), halving, window(3, 1), halving, halving
        map_size("inception_v3", image_shape, *to_17, halving)
        self.Conv2d_1a_3x3 = ConvNormReLU(layers, image_shape[0], 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNormReLU(layers, 32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNormReLU(layers, 32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvNormReLU(layers, 64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNormReLU(layers, 80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(layers, 192, pool_features=32)
        self.Mixed_5c = InceptionA(layers, 256, pool_features=64)
        self.Mixed_5d = InceptionA(layers, 288, pool_features=64)
        self.Mixed_6a = InceptionB(layers, 288)
        self.Mixed_6b = InceptionC(layers, 768, c7=128)
        self.Mixed_6c = InceptionC(layers, 768, c7=160)
        self.Mixed_6d = InceptionC(layers, 768, c7=160)
        self.Mixed_6e = InceptionC(layers, 768, c7=192)
        self.AuxLogits: InceptionAux | None = None
        if auxiliary:
            name = "inception_v3 with its auxiliary classifier"
            map_size(name, image_shape, *to_17, window(5, 3), window(5, 1))
            self.AuxLogits = InceptionAux(layers, 768, classes)
        self.Mixed_7a = InceptionD(layers, 768)
        self.Mixed_7b = InceptionE(layers, 1280)
        self.Mixed_7c = InceptionE(layers, 2048)
        self.avgpool = nn.GlobalAvgPool2d()
        self.dropout = nn.Dropout(0.5)
        self.fc = layers.Linear(2048, classes)

    def forward(self, x: nn.Value) -> nn.Value | tuple[nn.Value, ...]:
        """Record the network.

        Parameters
        ----------
        x : Value
            Images (N, C, H, W).

        Returns
        -------
        Value or tuple of Value
            Scores (N, classes); in training with the auxiliary classifier two of them.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        of_6e = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(of_6e)))
        scores = self.fc(self.dropout(nn.flatten(self.avgpool(x))))
        return (scores, self.AuxLogits(of_6e)) if self.AuxLogits else scores
