"""MobileNet-v2 (Sandler et al. 2018, table 2), of width 1."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import ImageShape

# expansion, channels, blocks, stride of the first
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = 1280


def _conv(C: int, K: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(C, K, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(K),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """A block that widens, filters each channel by itself, and narrows again."""

    def __init__(self, C: int, K: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = C * expansion
        widen = [_conv(C, wide, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            _conv(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, K, 1, bias=False),
            nn.BatchNorm2d(K),
        )
        self.shortcut = stride == 1 and C == K

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, C: int, classes: int) -> None:
        super().__init__()
        made: list[nn.Module] = [_conv(C, 32, 3, 2)]
        C = 32
        for expansion, K, count, stride in STAGES:
            for place in range(count):
                made.append(InvertedResidual(C, K, 1 if place else stride, expansion))
                C = K
        self.features = nn.Sequential(*made, _conv(C, LAST, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(LAST, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v2(image_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> nn.Module:
    return MobileNetV2(image_shape[0], classes)
