"""The strategies by name."""

from __future__ import annotations

from lowerconv.parallel.data import DataParallel
from lowerconv.parallel.model import ModelParallel
from lowerconv.parallel.owt import OWT
from lowerconv.parallel.strategy import Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "data": DataParallel,
    "tree": DataParallel,
    "model": ModelParallel,
    "owt": OWT,
}
