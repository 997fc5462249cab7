"""Small networks with all that integer layers have to do with."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lowerconv import nn
from lowerconv.nn.normalise import Softmax
from lowerconv.nn.pointwise import Pointwise

SHAPE = (3, 17, 18)


class Net(nn.Module):
    """A network whose layers are attributes, and whose `forward` is a function of them."""

    returns_all = True

    def __init__(self, forward: Callable[[Any, Any], Any], **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.made = forward

    def forward(self, *values: Any, **_: Any) -> Any:
        return self.made(self, values[0])


def conv(C: int, K: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(C, K, size, padding=size // 2, **options)


def chain() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        conv(8, 6, groups=2, stride=2),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, 10),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(10, 5),
    )


def residual() -> nn.Module:
    def forward(net: Any, x: Any) -> Any:
        x = nn.relu(net.norm(net.stem(x)))
        y = net.b(nn.relu(net.a(x)))
        x = nn.relu(net.norm2(y) + net.short(x))
        x = nn.relu(net.c(x) + x)
        return net.last(nn.flatten(net.mean(x)))

    return Net(
        forward,
        stem=conv(3, 8),
        norm=nn.BatchNorm2d(8),
        a=conv(8, 10, 1),
        b=conv(10, 12, stride=2),
        norm2=nn.BatchNorm2d(12),
        short=conv(8, 12, 1, stride=2),
        c=conv(12, 12),
        mean=nn.GlobalAvgPool2d(),
        last=nn.Linear(12, 7),
    )


def branches(channels: tuple[int, ...] = (8, 4, 8)) -> nn.Module:
    a, b, c = channels

    def forward(net: Any, x: Any) -> Any:
        x = nn.relu(net.stem(x))
        parts = nn.relu(net.a(x)), nn.relu(net.b(nn.relu(net.b0(x)))), net.pool(x), net.c(x)
        x = nn.concat(*parts)
        return net.last(net.pool(x))

    return Net(
        forward,
        stem=conv(3, 8),
        a=conv(8, a, 1),
        b0=conv(8, 5),
        b=conv(5, b),
        c=conv(8, c, 1),
        pool=nn.MaxPool2d(3, 1, 1),
        last=conv(a + b + 8 + c, 6),
    )


def functions() -> nn.Module:
    """Depthwise convolutions, clips and other functions, as mobile networks have them."""

    def forward(net: Any, x: Any) -> Any:
        x = net.clip(net.stem(x))
        x = net.clip2(net.depth(x))
        x = net.swish(net.wide(x))
        y = net.tanh(net.narrow(x))
        return net.last(y + net.other(x))

    return Net(
        forward,
        stem=conv(3, 8, stride=2),
        clip=Pointwise("clip", 0, 6),
        last=conv(8, 4, 1),
        depth=conv(8, 8, groups=8),
        clip2=Pointwise("clip", -0.5, 1),
        wide=conv(8, 9, 1),
        swish=Pointwise("silu"),
        narrow=conv(9, 8),
        tanh=Pointwise("tanh"),
        other=conv(9, 8, 1),
    )


def between() -> nn.Module:
    """Layers in the middle that have no integer form, and two results."""

    def forward(net: Any, x: Any) -> Any:
        x = nn.relu(net.a(x))
        y = net.b(net.soft(net.pool(x)))
        z = net.c(x + y)
        return z, nn.relu(z)

    return Net(
        forward,
        a=conv(3, 8),
        soft=Softmax(1),
        pool=nn.MaxPool2d(3, 1, 1),
        b=conv(8, 8),
        c=conv(8, 3, bias=False),
    )


def clipped_numbers() -> nn.Module:
    """Convolutions whose float32 results are clipped for layers without an integer form."""
    return nn.Sequential(
        *(conv(3, 8), nn.ReLU(), Softmax(1)),
        *(conv(8, 6), Pointwise("clip", -0.1, 0.4), Softmax(1)),
        *(conv(6, 5), Pointwise("clip", 0, 0), Softmax(1)),
        *(nn.Flatten(), nn.Linear(5 * 17 * 18, 10), nn.ReLU()),
    )


def normed() -> nn.Module:
    """Local response norm, as in networks of 2012 to 2014; of channels that fill no word, too."""
    return nn.Sequential(
        *(conv(3, 8), nn.ReLU(), nn.LocalResponseNorm(5, 0.3), nn.MaxPool2d(3, 2, 1)),
        *(conv(8, 6), nn.LocalResponseNorm(3, 0.5, 0.6), nn.ReLU()),
        *(conv(6, 5), nn.LocalResponseNorm(5), nn.Flatten(), nn.Linear(5 * 9 * 9, 10)),
    )


def rows() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 17 * 18, 21), nn.ReLU(), nn.Linear(21, 10, bias=False)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "residual": residual,
    "branches": branches,
    "odd-branches": lambda: branches((6, 3, 5)),
    "functions": functions,
    "between": between,
    "clipped-numbers": clipped_numbers,
    "normed": normed,
    "rows": rows,
}


def make(name: str, seed: int = 5) -> nn.Module:
    """Return a network with statistics of batch norm that are not those of a new one."""
    net = NETWORKS[name]()
    rng = np.random.default_rng(seed)
    net.initialize(rng)
    for _, module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            C = len(module.weight.data)
            module.running_mean[:] = rng.standard_normal(C)
            module.running_var[:] = rng.uniform(0.5, 2, C)
            module.weight.data[:] = rng.uniform(-1.5, 1.5, C)
            module.bias.data[:] = rng.standard_normal(C)
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias:
            module.bias.data[:] = 0.3 * rng.standard_normal(len(module.bias.data))
    return net


def images(count: int = 40, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
