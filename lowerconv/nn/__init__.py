"""Networks: layers, modules that put them together, a loss, optimizers, and models.

A module tells in `forward`, as in PyTorch, how values flow through its layers.  Before the first
step with a new shape of input that is recorded as a graph (`graph`), neighbours that can be one
pass are made one, every array gets its place in one arena (`planning`), and what is left is a list
of kernels to run (`program`).  All layers run on all threads, so that none dominates a step.
"""

from lowerconv.nn.activation import Dropout, ReLU, relu
from lowerconv.nn.combine import Add, Concat, Flatten, concat, flatten
from lowerconv.nn.containers import ModuleList, Sequential
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.graph import Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.loss import LossResult, softmax_cross_entropy
from lowerconv.nn.module import Module, Parameter
from lowerconv.nn.norm import BatchNorm2d, LocalResponseNorm
from lowerconv.nn.optim import LARS, SGD, Adam, LossScale, Optimizer
from lowerconv.nn.pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d
from lowerconv.nn.step import INFERENCE, Step

__all__ = [
    "INFERENCE",
    "LARS",
    "SGD",
    "Adam",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Layer",
    "Linear",
    "LocalResponseNorm",
    "LossResult",
    "LossScale",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Optimizer",
    "Parameter",
    "ReLU",
    "Sequential",
    "Step",
    "Value",
    "concat",
    "flatten",
    "relu",
    "softmax_cross_entropy",
]
