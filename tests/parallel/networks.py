"""Small networks in float64 with all that networks are made of, for cutting and splitting."""

import numpy as np

from lowerconv import nn
from tests.nn.graphs import RandomNetwork

WIDE = {"dtype": np.float64}


def conv(*arguments, **options):
    return nn.Conv2d(*arguments, **options, **WIDE)


def linear(*arguments, **options):
    return nn.Linear(*arguments, **options, **WIDE)


class Plain(nn.Sequential):
    """Convolutions, pooling, dropout, and two fully connected layers, the last one small."""

    image_shape, border = (2, 8, 9), "7"

    def __init__(self):
        super().__init__(
            conv(2, 7, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            conv(7, 6, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            linear(6 * 4 * 4, 23),
            nn.ReLU(),
            nn.Dropout(0.4),
            linear(23, 11),
            nn.Dropout(0.1),
            linear(11, 9),
            nn.ReLU(),
            linear(9, 8, bias=False),
            nn.ReLU(),
            linear(8, 4),
        )


class Branches(nn.Module):
    """Branches of several widths, and readers of the same value in several forms."""

    image_shape, border = (3, 7, 7), "after"

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 6, 3, padding=1)
        self.left = conv(6, 7, 1)
        self.right = nn.Sequential(conv(6, 5, 1), nn.ReLU(), conv(5, 9, 3, padding=1))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(6, 5, 1))
        self.after = nn.LocalResponseNorm(3, 0.1)
        self.drop = nn.Dropout(0.3)
        self.grouped = conv(21, 12, 3, padding=1, groups=3)
        self.other = conv(21, 4, 1)  # reads what those two read
        self.average = nn.AvgPool2d(2)
        self.last = linear((21 + 12 + 21 + 4) * 9, 5)

    def forward(self, x):
        x = nn.relu(self.stem(x))
        x = nn.concat(self.left(x), nn.relu(self.right(x)), self.pool(x))
        x = self.drop(x)
        normal, grouped = self.after(x), nn.relu(self.grouped(x))
        x = self.average(nn.concat(x, grouped, normal, self.other(x)))
        return self.last(nn.flatten(x))


class Residual(nn.Module):
    """Residuals and batch norm, as in ResNets; a residual that is not split, too."""

    image_shape, border = (4, 6, 6), "second"

    def __init__(self):
        super().__init__()
        self.stem = conv(4, 8, 3, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(8, **WIDE)
        self.first = conv(8, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8, **WIDE)
        self.second = conv(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8, **WIDE)
        self.narrow = conv(8, 2, 1)
        self.lift = conv(2, 8, 1)
        self.depthwise = conv(8, 8, 3, padding=1, groups=8)
        self.pool = nn.GlobalAvgPool2d()
        self.out = linear(8, 6)

    def forward(self, x):
        x = nn.relu(self.norm0(self.stem(x)))
        x = nn.relu(self.norm1(self.first(x)) + x)
        y = nn.relu(self.norm2(self.second(x)))
        y = y + nn.relu(self.lift(self.narrow(y)))
        y = self.depthwise(y) + y
        return self.out(nn.flatten(self.pool(y)))


class Heads(nn.Module):
    """Auxiliary classifiers before the border and behind it."""

    image_shape, border = (2, 8, 8), "third"

    def __init__(self):
        super().__init__()
        self.first = conv(2, 6, 3, padding=1)
        self.head1 = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), linear(24, 5))
        self.second = conv(6, 7, 3, stride=2)
        self.third = conv(7, 10, 2)
        self.head2 = nn.Sequential(nn.Flatten(), linear(40, 11), nn.ReLU(), linear(11, 5))
        self.fourth = linear(40, 5)

    def forward(self, x):
        x = nn.relu(self.first(x))
        one = self.head1(x)
        x = nn.relu(self.third(nn.relu(self.second(x))))
        return self.fourth(nn.flatten(x)), one, self.head2(x)


class Unlearnt(nn.Module):
    """Nothing is learnt before the border."""

    image_shape, border = (3, 8, 8), "one"

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.one = conv(3, 6, 3)
        self.two = linear(24, 7)

    def forward(self, x):
        return self.two(nn.flatten(nn.relu(self.one(self.pool(x)))))


class Windows(nn.Module):
    """Convolutions and pooling of any geometry, residuals and branches, which a seed decides."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)

        def one_of(*values):
            return values[rng.integers(len(values))]

        self.image_shape = (2, int(rng.integers(7, 40)), int(rng.integers(6, 9)))
        self.layers = nn.ModuleList()
        C, rows, columns = self.image_shape
        for _ in range(int(rng.integers(3, 7))):
            kind = one_of("conv", "conv", "same", "max", "mean", "norm", "drop")
            size, stride = int(rng.integers(1, 5)), int(rng.integers(1, 4))
            if kind == "conv":
                dilation = one_of(1, 1, 2)
                extent = (size - 1) * dilation + 1
                above, below = (int(n) for n in rng.integers(0, extent, 2))
                sides = (above, below), (1, 1)
                if rows + above + below < extent or columns < extent:
                    continue
                groups = one_of(1, 1, 2)
                layer = conv(
                    C, 4, (size, 3), (stride, 1), sides, (dilation, 1), groups, bias=one_of(0, 1)
                )
                rows = (rows + above + below - extent) // stride + 1
                C = 4
            elif kind == "same":
                layer = Block(C, one_of(3, 5), bool(one_of(0, 1)))
            elif kind in ("max", "mean"):
                pad = int(rng.integers(0, size // 2 + 1))
                if rows + 2 * pad < size:
                    continue
                arguments = (size, 1), (stride, 1), (pad, 0), bool(one_of(0, 1))
                more = {"count_include_pad": bool(one_of(0, 1))} if kind == "mean" else {}
                layer = (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(*arguments, **more)
                rows = layer.result_shape((1, C, rows, columns))[2]
            else:
                layer = nn.BatchNorm2d(C, **WIDE) if kind == "norm" else nn.Dropout(0.3)
            self.layers.append(layer)
            if one_of(0, 1):
                self.layers.append(nn.ReLU())
        self.mean = bool(one_of(0, 1))
        self.out = linear(C if self.mean else C * rows * columns, 5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        x = nn.GlobalAvgPool2d()(x) if self.mean else x
        return self.out(nn.flatten(x))


class Block(nn.Module):
    """A convolution beside a shortcut, or beside another one that it is set next to."""

    def __init__(self, C, size, is_sum):
        super().__init__()
        self.is_sum = is_sum
        self.left = conv(C, C if is_sum else C - 1, size, padding=size // 2)
        self.right = conv(C, C if is_sum else 1, 1)

    def forward(self, x):
        if self.is_sum:
            return nn.relu(self.left(x) + x)
        return nn.concat(self.left(x), nn.relu(self.right(x)))


NETWORKS = {network.__name__: network for network in (Plain, Branches, Residual, Heads, Unlearnt)}


def make(name, seed=5):
    """Return a network with weights drawn at random, biases included.

    Of a name of `NETWORKS`, ``random-SEED`` or ``windows-SEED``.
    """
    if name.startswith("windows-"):
        network = Windows(int(name.partition("-")[2]))
    elif name.startswith("random-"):
        network = RandomNetwork(int(name.partition("-")[2]), nodes=10)
        network.image_shape = (3, 5, 6)
    else:
        network = NETWORKS[name]()
    rng = np.random.default_rng(seed)
    network.initialize(rng)
    for parameter in network.parameters().values():
        parameter.data += 0.1 * rng.standard_normal(parameter.data.shape)
    return network
