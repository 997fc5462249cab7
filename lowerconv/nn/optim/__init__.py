"""Optimizers: they step on one flat array, which holds all parameters."""

from lowerconv.nn.optim.adam import Adam
from lowerconv.nn.optim.lars import LARS
from lowerconv.nn.optim.loss_scale import LossScale
from lowerconv.nn.optim.optimizer import Optimizer
from lowerconv.nn.optim.sgd import SGD

__all__ = ["LARS", "SGD", "Adam", "LossScale", "Optimizer"]
