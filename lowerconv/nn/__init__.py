"""Networks: layers with a forward and a backward step, a loss, optimizers, and models.

Layers other than convolution run on all threads too, so that none of them dominates a step.
"""

from lowerconv.nn.activation import Dropout, ReLU
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.linear import Flatten, Linear
from lowerconv.nn.loss import LossResult, softmax_cross_entropy
from lowerconv.nn.module import Layer, Parameter, Sequential, Step
from lowerconv.nn.optim import LARS, SGD, Adam, Optimizer
from lowerconv.nn.pooling import AvgPool2d, MaxPool2d

__all__ = [
    "LARS",
    "SGD",
    "Adam",
    "AvgPool2d",
    "Conv2d",
    "Dropout",
    "Flatten",
    "Layer",
    "Linear",
    "LossResult",
    "MaxPool2d",
    "Optimizer",
    "Parameter",
    "ReLU",
    "Sequential",
    "Step",
    "softmax_cross_entropy",
]
