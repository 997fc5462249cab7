"""ResNet, for small images and for large ones."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ImageShape


class Residual(nn.Module):
    """A block of 3x3 convolutions, or with a bottleneck, and its shortcut."""

    def __init__(self, C: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        K = 4 * width if bottleneck else width
        if bottleneck:
            sizes = ((C, width, 1, 1), (width, width, 3, stride), (width, K, 1, 1))
        else:
            sizes = ((C, width, 3, stride), (width, width, 3, 1))
        for number, (inputs, outputs, size, step) in enumerate(sizes, 1):
            conv = nn.Conv2d(inputs, outputs, size, step, padding=size // 2, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
        self.count = len(sizes)
        self.downsample = nn.Sequential()
        if stride != 1 or C != K:
            self.downsample = nn.Sequential(
                nn.Conv2d(C, K, 1, stride, bias=False), nn.BatchNorm2d(K)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.count:
                y = F.relu(y)
        return F.relu(y + self.downsample(x))


class ResNet(nn.Module):
    def __init__(
        self, C: int, classes: int, blocks: tuple[int, ...], width: int, bottleneck: bool
    ) -> None:
        super().__init__()
        self.large = width == 64
        self.conv1 = (
            nn.Conv2d(C, width, 7, stride=2, padding=3, bias=False)
            if self.large
            else nn.Conv2d(C, width, 3, padding=1, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(width)
        C = width
        stages = []
        for stage, count in enumerate(blocks):
            made = []
            for place in range(count):
                stride = 2 if stage > 0 and place == 0 else 1
                made.append(Residual(C, width * 2**stage, stride, bottleneck))
                C = width * 2**stage * (4 if bottleneck else 1)
            stages.append(f"layer{stage + 1}")
            self.add_module(stages[-1], nn.Sequential(*made))
        self.stages = stages
        self.fc = nn.Linear(C, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.large:
            x = F.max_pool2d(x, 3, 2, padding=1)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(x.mean((2, 3)))


def resnet20(image_shape: ImageShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    return ResNet(image_shape[0], classes, (3, 3, 3), 16, False)


def resnet56(image_shape: ImageShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    return ResNet(image_shape[0], classes, (9, 9, 9), 16, False)


def resnet18(image_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> nn.Module:
    return ResNet(image_shape[0], classes, (2, 2, 2, 2), 64, False)


def resnet50(image_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> nn.Module:
    return ResNet(image_shape[0], classes, (3, 4, 6, 3), 64, True)
