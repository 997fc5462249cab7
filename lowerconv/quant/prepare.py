"""A network in its quantization-aware form."""

from __future__ import annotations

from typing import Any

from lowerconv.nn.conv import Conv2d
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Module
from lowerconv.quant.fake_quant import FakeQuantLayer, QuantConv2d, QuantLinear, WeightQuantizer
from lowerconv.quant.fixed_point import RoundedOperand
from lowerconv.quant.learned_step import LearnedStep, LearnedStepWeights
from lowerconv.quant.options import Quantization
from lowerconv.quant.ternary import TernaryWeights

ENDS = 8  # bits of the first and the last layer, whatever the others have (Esser et al., section 3)

_FORMS: dict[type[Module], type[FakeQuantLayer]] = {Conv2d: QuantConv2d, Linear: QuantLinear}


def prepare(network: Module, quantization: Quantization | None = None, **options: Any) -> Module:
    """Have a network compute with low-precision numbers, in training and at inference.

    Its convolutions and fully connected layers become `QuantConv2d` and `QuantLinear`, with the
    same parameters, and steps beside them where these are learnt. All else stays as it is, in the
    dtype of the network. The first and the last of them, by the order of the network's attributes,
    have 8 bits where the others have fewer.

    For fixed-point numbers all parameters are rounded, and an optimizer has to round what it
    learns: ``optimizer.rounding = quantization.rounded_updates(seed)``. `Trainer` does that.

    Parameters
    ----------
    network : Module
        Is changed.
    quantization : Quantization, optional
    **options
        Its attributes, instead of it.

    Returns
    -------
    Module
        The network.

    Raises
    ------
    TypeError, ValueError
        An option is wrong, or none is given; the network is prepared already, or has no such layer,
        or is one itself.
    """
    if not isinstance(network, Module):
        raise TypeError(f"network: got {type(network).__name__}, expected a Module")
    if quantization is not None and options:
        raise TypeError(f"quantization: got one and {', '.join(options)}, expected either")
    bits = Quantization(**options) if quantization is None else quantization
    if not bits.quantizes:
        raise ValueError("quantization: got no bits, expected some")
    found = _layers(network)
    places = [
        (module, name, child)
        for _, module in network.modules()
        for name, child in module.children().items()
        if any(child is layer for layer in found.values())
    ]
    for name, layer in found.items():
        if not any(child is layer for _, _, child in places):
            raise ValueError(
                f"network: its layer {name} is no attribute of it or of its parts, expected a "
                "network of lowerconv.nn"
            )
    twins: dict[int, Module] = {}
    for place, layer in enumerate(found.values()):
        at_end = place in (0, len(found) - 1)
        twins[id(layer)] = _twin(layer, bits, at_end)
    for module, name, child in places:
        setattr(module, name, twins[id(child)])
    if bits.fixed_point is not None:
        values, _ = bits.formats
        for parameter in network.parameters().values():
            values.round(parameter.data)
    return network


def _layers(network: Module) -> dict[str, Module]:
    """Return the layers that change, by name."""
    found = {}
    for name, module in network.modules():
        if isinstance(module, FakeQuantLayer):
            raise ValueError(
                f"network: {name or 'it'} is quantized already, expected one that is not"
            )
        if type(module) in _FORMS:
            found[name] = module
    if "" in found:
        raise ValueError(
            f"network: got a {type(network).__name__} itself, expected a network that contains it"
        )
    if not found:
        raise ValueError("network: got none with a Conv2d or Linear, expected layers to quantize")
    return found


def _twin(layer: Any, bits: Quantization, at_end: bool) -> Module:
    """Return the quantized form of a layer."""
    weights: WeightQuantizer | None = None
    operand: Layer | None = None
    if bits.fixed_point is not None:
        operand = RoundedOperand(*bits.formats, bits.stochastic)
    if bits.activation_bits is not None:
        operand = LearnedStep(ENDS if at_end else bits.activation_bits, layer.weight.data.dtype)
    by_filter = bits.weight_steps == "filter"
    if bits.weight_bits is not None:
        weights = LearnedStepWeights(ENDS if at_end else bits.weight_bits, by_filter)
    elif bits.ternary_weights:
        weights = LearnedStepWeights(ENDS) if at_end else TernaryWeights()
    return _FORMS[type(layer)].of_layer(layer, weights, operand)
