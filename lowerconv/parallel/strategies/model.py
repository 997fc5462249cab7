"""Model parallelism: every rank computes a part of every layer, for the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lowerconv.nn.loss import LossResult
from lowerconv.nn.module import Module
from lowerconv.nn.optim import Optimizer
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.sharding.split import SplitNetwork
from lowerconv.parallel.strategies.accumulation import GradientAccumulation
from lowerconv.parallel.strategies.strategy import Strategy, Work


class SplitStrategy(Strategy):
    """What strategies share whose ranks have parts of the weights.

    Attributes
    ----------
    split : SplitNetwork
        The layers of which this rank has a part.
    """

    split: SplitNetwork
    engine: Engine

    def make_split_optimizer(self, make_optimizer: Callable[[Module], Optimizer]) -> Optimizer:
        """Return the optimizer of this rank's parts.

        Raises
        ------
        ValueError
            It needs whole parameters.
        """
        optimizer = make_optimizer(self.split)
        if optimizer.whole and self.split.shardings:
            name = next(iter(self.split.shardings))
            raise ValueError(
                f"optimizer: got {type(optimizer).__name__}, which needs norms of whole "
                f"parameters, with strategy {self.options.strategy!r}, whose ranks have parts of "
                f"{name!r}; expected sgd or adam"
            )
        return optimizer

    def gather_whole(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return arrays named after parameters, such as ``velocity/NAME``, put together."""
        return {name: self.split.whole(_owner(name), arrays[name]) for name in arrays}

    def scatter_whole(
        self, arrays: dict[str, np.ndarray], whole: dict[str, np.ndarray] | None
    ) -> None:
        """Fill arrays of this rank with its parts of whole ones, which rank 0 has."""
        for name, (shape, dtype) in self.shapes(arrays).items():
            everything = np.empty(shape, dtype)
            if whole is not None:
                everything[...] = whole[name]
            self.communicator.broadcast_array(everything)
            arrays[name][...] = self.split.shard(_owner(name), everything)

    def shapes(self, arrays: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shapes and dtypes of what `gather_whole` makes of arrays."""
        found = {}
        for name, array in arrays.items():
            sharding = self.split.shardings.get(_owner(name))
            found[name] = (sharding.shape(array.shape) if sharding else array.shape), array.dtype
        return found

    def write_back(self) -> None:
        """Put the parts of all ranks together in the network; all ranks call it, after training."""
        self.split.join()

    def replicated(self) -> dict[str, np.ndarray]:
        """Return the parameters of which all ranks have the same, by name."""
        shardings = self.split.shardings
        return {name: a for name, a in super().replicated().items() if name not in shardings}


class ModelParallel(SplitStrategy):
    """Each rank has a part of the channels of every layer, and looks at the whole batch.

    Parameters as of :class:`Strategy`.
    """

    def _build(self) -> None:
        communicator, options = self.communicator, self.options
        network, image_shape, make_optimizer = self.network, self.image_shape, self.make_optimizer
        self.loader_share, self.loss_copies = (0, 1), communicator.ranks
        self.engine = make_engine(communicator, options)
        self.network = self.split = SplitNetwork(network, (1, *image_shape), self.engine)
        self._progress_between_layers(self.split)
        self.optimizers = [self.make_split_optimizer(make_optimizer)]
        self.accumulation = GradientAccumulation([self.optimizer.grad])

    def train(self, work: Work) -> LossResult:
        """Compute the batch together with all ranks; every rank returns the loss of all of it."""
        # What layers see of the batch is all of it.
        return super().train(replace(work, step=replace(work.step, communicator=None)))

    def differing_buffers(self) -> dict[str, np.ndarray]:
        """Return nothing: all ranks have seen all samples."""
        return {}

    def describe(self) -> str:
        """Return how much is divided."""
        if self.communicator.ranks == 1:
            return ""
        return f"model-parallel, {describe_parts(self.split)}"


def describe_parts(split: SplitNetwork) -> str:
    """Return how many of the parameters a rank has, in words."""
    mine = sum(p.data.size for p in split.parameters().values())
    return f"{mine:,} parameters on rank {split.engine.rank}"


def _owner(name: str) -> str:
    """Return the parameter that an array belongs to, as ``velocity/NAME`` does to ``NAME``."""
    return name.rpartition("/")[2]
