"""Quantization: networks of 8-bit integers, and quantization-aware training.

`quantize` makes an integer network.  `prepare` makes a network its quantization-aware form, which
computes in float32: `learned_step` (2 to 8 bits), `ternary`, or
`fixed_point` with stochastic or nearest rounding.  docs/precision.md tells what they are for.

>>> from lowerconv import nn, quant
>>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
>>> quant.prepare(net, weight_bits=4, activation_bits=4) is net
True
>>> list(net.parameters())[:4]
['0.weight', '0.bias', '0.weight_step', '0.input.step']
"""

from lowerconv.quant.fixed_point import FixedPoint, RoundedUpdates
from lowerconv.quant.network import IntegerNetwork, load
from lowerconv.quant.options import Quantization
from lowerconv.quant.prepare import prepare
from lowerconv.quant.quantize import quantize

__all__ = [
    "FixedPoint",
    "IntegerNetwork",
    "Quantization",
    "RoundedUpdates",
    "load",
    "prepare",
    "quantize",
]
