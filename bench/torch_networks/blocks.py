"""What several networks have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ImageShape = tuple[int, int, int]


def flat_features(features: nn.Module, image_shape: ImageShape) -> int:
    """Return how many values are left of an image."""
    with torch.no_grad():
        return features(torch.zeros(1, *image_shape)).numel()


class ConvBlock(nn.Module):
    """A convolution, batch normalisation unless told otherwise, and ReLU."""

    def __init__(self, C: int, K: int, batch_norm: bool = True, **geometry: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, K, bias=not batch_norm, **geometry)
        if batch_norm:
            self.bn = nn.BatchNorm2d(K, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu(self.bn(x) if hasattr(self, "bn") else x)
