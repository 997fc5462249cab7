"""AlexNet in one tower."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.models.build import ImageShape, Layers, map_size, window


class AlexNet(nn.Module):
    """Five convolutions and three fully connected layers, named as in torchvision.

    Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014): the
    network of Krizhevsky, Sutskever, Hinton (2012) without its split in two and without LRN, with
    64, 192, 384, 256 and 256 filters; 61,100,840 parameters on 224x224 pixels and 1,000 classes.

    Parameters
    ----------
    image_shape : (C, H, W)
        At least 63x63 pixels; the first fully connected layer takes whatever is left of it.
    classes : int
    algorithm : str
        Of the convolutions.
    dtype : dtype-like
    """

    def __init__(
        self,
        image_shape: ImageShape = (3, 224, 224),
        classes: int = 1000,
        algorithm: str = "auto",
        dtype: Any = np.float32,
    ) -> None:
        super().__init__()
        layers = Layers(algorithm, dtype)
        pooling = window(3, 2)
        rows, columns = map_size(
            "alexnet", image_shape, window(11, 4, 2), pooling, pooling, pooling
        )
        self.features = nn.Sequential(
            layers.Conv2d(image_shape[0], 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            layers.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            layers.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            layers.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            layers.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            layers.Linear(256 * rows * columns, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            layers.Linear(4096, 4096),
            nn.ReLU(),
            layers.Linear(4096, classes),
        )

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the network.

        Parameters
        ----------
        x : Value
            Images (N, C, H, W).

        Returns
        -------
        Value
            Scores (N, classes).
        """
        return self.classifier(nn.flatten(self.features(x)))
