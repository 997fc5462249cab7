"""The strategies by name."""

from __future__ import annotations

from lowerconv.parallel.strategies.asynchronous import Asynchronous
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.parallel.strategies.model import ModelParallel
from lowerconv.parallel.strategies.owt import OWT
from lowerconv.parallel.strategies.server import ParameterServer
from lowerconv.parallel.strategies.spatial import SpatialParallel
from lowerconv.parallel.strategies.strategy import Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "data": DataParallel,
    "tree": DataParallel,
    "model": ModelParallel,
    "owt": OWT,
    "spatial": SpatialParallel,
    "async": Asynchronous,
    "server": ParameterServer,
}
