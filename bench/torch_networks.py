"""The networks of `lowerconv.nn.models` in PyTorch, written independently, for tests and benches.

Names are those of torchvision, which is not needed, so that a state_dict of each fits ours key by
key. Auxiliary classifiers give their scores in training only; they pool 5x5 pixels with stride 3,
as in the papers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ImageShape = tuple[int, int, int]


def flat_features(features: nn.Module, image_shape: ImageShape) -> int:
    """Return how many values are left of an image."""
    with torch.no_grad():
        return features(torch.zeros(1, *image_shape)).numel()


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
