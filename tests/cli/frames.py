"""Networks on frames, and the lines that are printed of them."""

import re

import numpy as np

from lowerconv import nn
from lowerconv.data import Normalizer

NORMALIZER = Normalizer.of([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
LINE = re.compile(r"(\S+): (.*), \d+\.\d\d ms")


def small(classes=4, pool=True) -> nn.Module:
    """Return a network of images of any size."""
    last = (nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(6, classes)) if pool else ()
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), *last)
    net.initialize(np.random.default_rng(1))
    return net


def lines_of(text) -> list[tuple[str, str]]:
    return [LINE.fullmatch(line).groups() for line in text.splitlines()]
