"""GoogLeNet, with auxiliary classifiers of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvBlock, ImageShape


class GoogLeNet(nn.Module):
    class Inception(nn.Module):
        def __init__(
            self, bn: bool, C: int, k1: int, r3: int, k3: int, r5: int, k5: int, pool: int
        ) -> None:
            super().__init__()
            wide = {"kernel_size": 3, "padding": 1} if bn else {"kernel_size": 5, "padding": 2}
            self.branch1 = ConvBlock(C, k1, bn, kernel_size=1)
            self.branch2 = nn.Sequential(
                ConvBlock(C, r3, bn, kernel_size=1), ConvBlock(r3, k3, bn, kernel_size=3, padding=1)
            )
            self.branch3 = nn.Sequential(
                ConvBlock(C, r5, bn, kernel_size=1), ConvBlock(r5, k5, bn, **wide)
            )
            self.branch4 = nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1), ConvBlock(C, pool, bn, kernel_size=1)
            )

        def forward(self, x: Tensor) -> Tensor:
            branches = self.branch1, self.branch2, self.branch3, self.branch4
            return torch.cat([branch(x) for branch in branches], 1)

    class Auxiliary(nn.Module):
        def __init__(self, bn: bool, C: int, classes: int) -> None:
            super().__init__()
            self.conv = ConvBlock(C, 128, bn, kernel_size=1)
            self.fc1 = nn.LazyLinear(1024)
            self.dropout = nn.Dropout(0.7)
            self.fc2 = nn.Linear(1024, classes)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(F.avg_pool2d(x, 5, 3))
            return self.fc2(self.dropout(F.relu(self.fc1(torch.flatten(x, 1)))))

    def __init__(self, C: int, classes: int, bn: bool, auxiliary: bool) -> None:
        super().__init__()
        inception = GoogLeNet.Inception
        self.conv1 = ConvBlock(C, 64, bn, kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = ConvBlock(64, 64, bn, kernel_size=1)
        self.conv3 = ConvBlock(64, 192, bn, kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception3a = inception(bn, 192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(bn, 256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.inception4a = inception(bn, 480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(bn, 512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(bn, 512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(bn, 512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(bn, 528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = nn.MaxPool2d(2 if bn else 3, stride=2, ceil_mode=True)
        self.inception5a = inception(bn, 832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(bn, 832, 384, 192, 384, 48, 128, 128)
        if auxiliary:
            self.aux1 = GoogLeNet.Auxiliary(bn, 512, classes)
            self.aux2 = GoogLeNet.Auxiliary(bn, 528, classes)
        self.dropout = nn.Dropout(0.2 if bn else 0.4)
        self.fc = nn.Linear(1024, classes)
        self.bn, self.auxiliary = bn, auxiliary

    def _norm(self, x: Tensor) -> Tensor:
        return x if self.bn else F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self._norm(self.maxpool1(self.conv1(x)))
        x = self._norm(self.conv3(self.conv2(x)))
        x = self.inception3b(self.inception3a(self.maxpool2(x)))
        a = self.inception4a(self.maxpool3(x))
        d = self.inception4d(self.inception4c(self.inception4b(a)))
        x = self.inception5b(self.inception5a(self.maxpool4(self.inception4e(d))))
        scores = self.fc(self.dropout(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
        if self.training and self.auxiliary:
            return scores, self.aux1(a), self.aux2(d)
        return scores


def googlenet(
    image_shape: ImageShape = (3, 224, 224),
    classes: int = 1000,
    batch_norm: bool = False,
    auxiliary: bool = True,
) -> nn.Module:
    network = GoogLeNet(image_shape[0], classes, batch_norm, auxiliary)
    return _with_sizes(network, image_shape)


def _with_sizes(network: nn.Module, image_shape: ImageShape) -> nn.Module:
    """Give lazy layers their sizes, and leave the running statistics as they were made."""
    with torch.no_grad():
        network(torch.zeros(2, *image_shape))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return network
