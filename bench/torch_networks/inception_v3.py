"""Inception v3, with its auxiliary classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvBlock, ImageShape


class Mixed(nn.Module):
    """Convolutions by name, each (C, K, R, S) or, with stride 2 and no padding, (C, K, R, S, 2)."""

    def __init__(self, **convolutions: tuple[int, ...]) -> None:
        super().__init__()
        for name, (C, K, R, S, *stride) in convolutions.items():
            step, padding = (2, 0) if stride else (1, (R // 2, S // 2))
            conv = ConvBlock(C, K, kernel_size=(R, S), stride=step, padding=padding)
            self.add_module(name, conv)

    def chain(self, x: Tensor, names: str) -> Tensor:
        for name in names.split():
            x = getattr(self, name)(x)
        return x


class InceptionA(Mixed):
    def __init__(self, C: int, pool: int) -> None:
        super().__init__(
            branch1x1=(C, 64, 1, 1),
            branch5x5_1=(C, 48, 1, 1),
            branch5x5_2=(48, 64, 5, 5),
            branch3x3dbl_1=(C, 64, 1, 1),
            branch3x3dbl_2=(64, 96, 3, 3),
            branch3x3dbl_3=(96, 96, 3, 3),
            branch_pool=(C, pool, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        five = self.chain(x, "branch5x5_1 branch5x5_2")
        double = self.chain(x, "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3")
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), five, double, pool], 1)


class InceptionB(Mixed):
    def __init__(self, C: int) -> None:
        super().__init__(
            branch3x3=(C, 384, 3, 3, 2),
            branch3x3dbl_1=(C, 64, 1, 1),
            branch3x3dbl_2=(64, 96, 3, 3),
            branch3x3dbl_3=(96, 96, 3, 3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        double = self.chain(x, "branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(Mixed):
    def __init__(self, C: int, inner: int) -> None:
        super().__init__(
            branch1x1=(C, 192, 1, 1),
            branch7x7_1=(C, inner, 1, 1),
            branch7x7_2=(inner, inner, 1, 7),
            branch7x7_3=(inner, 192, 7, 1),
            branch7x7dbl_1=(C, inner, 1, 1),
            branch7x7dbl_2=(inner, inner, 7, 1),
            branch7x7dbl_3=(inner, inner, 1, 7),
            branch7x7dbl_4=(inner, inner, 7, 1),
            branch7x7dbl_5=(inner, 192, 1, 7),
            branch_pool=(C, 192, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        single = self.chain(x, "branch7x7_1 branch7x7_2 branch7x7_3")
        double = self.chain(x, " ".join(f"branch7x7dbl_{i}" for i in range(1, 6)))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), single, double, pool], 1)


class InceptionD(Mixed):
    def __init__(self, C: int) -> None:
        super().__init__(
            branch3x3_1=(C, 192, 1, 1),
            branch3x3_2=(192, 320, 3, 3, 2),
            branch7x7x3_1=(C, 192, 1, 1),
            branch7x7x3_2=(192, 192, 1, 7),
            branch7x7x3_3=(192, 192, 7, 1),
            branch7x7x3_4=(192, 192, 3, 3, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        three = self.chain(x, "branch3x3_1 branch3x3_2")
        seven = self.chain(x, "branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4")
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(Mixed):
    def __init__(self, C: int) -> None:
        super().__init__(
            branch1x1=(C, 320, 1, 1),
            branch3x3_1=(C, 384, 1, 1),
            branch3x3_2a=(384, 384, 1, 3),
            branch3x3_2b=(384, 384, 3, 1),
            branch3x3dbl_1=(C, 448, 1, 1),
            branch3x3dbl_2=(448, 384, 3, 3),
            branch3x3dbl_3a=(384, 384, 1, 3),
            branch3x3dbl_3b=(384, 384, 3, 1),
            branch_pool=(C, 192, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        single = torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1)
        double = self.chain(x, "branch3x3dbl_1 branch3x3dbl_2")
        double = torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), single, double, pool], 1)


class InceptionAux(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv0 = ConvBlock(768, 128, kernel_size=1)
        self.conv1 = ConvBlock(128, 768, kernel_size=5)
        self.fc = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3))).mean((2, 3)))


class InceptionV3(nn.Module):
    def __init__(self, C: int, classes: int, auxiliary: bool) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBlock(C, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = ConvBlock(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = ConvBlock(32, 64, kernel_size=3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvBlock(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = ConvBlock(80, 192, kernel_size=3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        self.AuxLogits = InceptionAux(classes) if auxiliary else None
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.maxpool1(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.maxpool2(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        y = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        scores = self.fc(self.dropout(y.mean((2, 3))))
        if self.training and self.AuxLogits is not None:
            return scores, self.AuxLogits(x)
        return scores


def inception_v3(
    image_shape: ImageShape = (3, 299, 299), classes: int = 1000, auxiliary: bool = True
) -> nn.Module:
    return InceptionV3(image_shape[0], classes, auxiliary)
