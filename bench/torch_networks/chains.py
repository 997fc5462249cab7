"""Networks whose layers follow each other: LeNet, CIFAR-10 quick, NiN, AlexNet, VGG."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import ImageShape, flat_features


def lenet(image_shape: ImageShape = (1, 28, 28), classes: int = 10) -> nn.Module:
    features = [
        nn.Conv2d(image_shape[0], 20, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    ]
    inputs = flat_features(nn.Sequential(*features), image_shape)
    return nn.Sequential(*features, nn.Linear(inputs, 500), nn.ReLU(), nn.Linear(500, classes))


def cifar10_quick(image_shape: ImageShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    features = [
        nn.Conv2d(image_shape[0], 32, 5, padding=2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(),
    ]
    inputs = flat_features(nn.Sequential(*features), image_shape)
    return nn.Sequential(*features, nn.Linear(inputs, 64), nn.Linear(64, classes))


def nin(image_shape: ImageShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    def mlpconv(C: int, size: int, *filters: int) -> list[nn.Module]:
        made: list[nn.Module] = []
        for place, K in enumerate(filters):
            made += [nn.Conv2d(C, K, 1 if place else size, padding=0 if place else size // 2)]
            made += [nn.ReLU()]
            C = K
        return made

    return nn.Sequential(
        *mlpconv(image_shape[0], 5, 192, 160, 96),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        *mlpconv(96, 5, 192, 192, 192),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Dropout(0.5),
        *mlpconv(192, 3, 192, 192, classes)[:-1],  # scores without ReLU
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class FeaturesAndClassifier(nn.Module):
    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def alexnet(image_shape: ImageShape = (3, 224, 224), classes: int = 1000) -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(image_shape[0], 64, kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(flat_features(features, image_shape), 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, classes),
    )
    return FeaturesAndClassifier(features, classifier)


def _vgg(letters: str, image_shape: ImageShape, classes: int, batch_norm: bool) -> nn.Module:
    made: list[nn.Module] = []
    C = image_shape[0]
    for letter in letters.split():
        if letter == "M":
            made.append(nn.MaxPool2d(2, 2))
            continue
        K = int(letter)
        made += [nn.Conv2d(C, K, 3, padding=1), *([nn.BatchNorm2d(K)] * batch_norm), nn.ReLU()]
        C = K
    features = nn.Sequential(*made)
    classifier = nn.Sequential(
        nn.Linear(flat_features(features, image_shape), 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )
    return FeaturesAndClassifier(features, classifier)


def vgg11(
    image_shape: ImageShape = (3, 224, 224), classes: int = 1000, batch_norm: bool = False
) -> nn.Module:
    letters = "64 M 128 M 256 256 M 512 512 M 512 512 M"
    return _vgg(letters, image_shape, classes, batch_norm)


def vgg16(
    image_shape: ImageShape = (3, 224, 224), classes: int = 1000, batch_norm: bool = False
) -> nn.Module:
    letters = "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M"
    return _vgg(letters, image_shape, classes, batch_norm)
