"""VGG: 3x3 convolutions only."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, described, map_size, window

# Table 1 of the paper, columns A and D: the filters of each convolution between two poolings.
VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Five groups of 3x3 convolutions, each halved by pooling, and three fully connected layers.

    Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition"
    (2015); names as in torchvision.

    Parameters
    ----------
    name : str
        Named in errors.
    groups : sequence of sequence of int
        Filters of each convolution.
    image_shape : (C, H, W)
        At least 32x32 pixels; the first fully connected layer takes whatever is left of it.
    classes : int
    algorithm : str
        Of the convolutions.
    dtype : dtype-like
    batch_norm : bool
        Normalise after each convolution.
    """

    def __init__(
        self,
        name: str,
        groups: tuple[tuple[int, ...], ...],
        image_shape: ImageShape,
        classes: int,
        algorithm: str,
        dtype: Any,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        layers = Layers(algorithm, dtype)
        rows, columns = map_size(name, image_shape, *[window(2, 2)] * len(groups))
        features: list[nn.Module] = []
        C = image_shape[0]
        for filters in groups:
            for K in filters:
                features.append(layers.Conv2d(C, K, 3, padding=1))
                if batch_norm:
                    features.append(layers.BatchNorm2d(K))
                features.append(nn.ReLU())
                C = K
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            layers.Linear(C * rows * columns, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            layers.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            layers.Linear(4096, classes),
        )

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the network for images x (N, C, H, W)."""
        return self.classifier(nn.flatten(self.features(x)))


@described("batch_norm : bool", "    Whether to normalise after each convolution.")
def vgg11(
    image_shape: ImageShape = (3, 224, 224),
    classes: int = 1000,
    algorithm: str = "auto",
    dtype: Any = np.float32,
    batch_norm: bool = False,
) -> VGG:
    """Return configuration A: 132,863,336 parameters (132,868,840 with `batch_norm`)."""
    return VGG("vgg11", VGG11, image_shape, classes, algorithm, dtype, batch_norm)


@described("batch_norm : bool", "    Whether to normalise after each convolution.")
def vgg16(
    image_shape: ImageShape = (3, 224, 224),
    classes: int = 1000,
    algorithm: str = "auto",
    dtype: Any = np.float32,
    batch_norm: bool = False,
) -> VGG:
    """Return configuration D: 138,357,544 parameters (138,365,992 with `batch_norm`)."""
    return VGG("vgg16", VGG16, image_shape, classes, algorithm, dtype, batch_norm)
