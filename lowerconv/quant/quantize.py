"""From a float32 network and some of its inputs to an integer network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from lowerconv.arguments import Choice, Number
from lowerconv.checks import plain_array
from lowerconv.conv.arrays import contiguous
from lowerconv.nn.activation import Dropout
from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.memory import Arena
from lowerconv.nn.module import Module
from lowerconv.nn.program import Program
from lowerconv.nn.recording import checked_graph, make_constant
from lowerconv.nn.step import INFERENCE
from lowerconv.quant.chains import OTHERS, is_product
from lowerconv.quant.learned_step import LearnedStep
from lowerconv.quant.network import IntegerNetwork
from lowerconv.quant.observe import METHODS, PERCENTILE, Observer
from lowerconv.quant.params import QuantParams
from lowerconv.quant.qdq import DequantizeLinear, QuantizeLinear
from lowerconv.quant.qdq_placement import QdqPlacement
from lowerconv.quant.to_integers import has_codes, to_integers

BATCH = 16  # images that are computed at a time, of one array


def quantize(
    net: Module,
    calibration: Any = None,
    *,
    method: str = "minmax",
    percentile: float = PERCENTILE,
    weight_bits: int = 8,
    skip_first: bool = False,
    skip_last: bool = False,
    exclude: Collection[str] = (),
    strict: bool = False,
) -> IntegerNetwork:
    """Return a network that computes with 8-bit integers what another one does in float32.

    Batch norm is folded; filters have a scale each, activations one for each tensor.  A ReLU and an
    addition that follow are done as convolutions store their results.  Operators without an integer
    form stay in float32, as do those that are left out.

    Parameters
    ----------
    net : Module
        With one input, float32; is not changed.
    calibration : ndarray or iterable of ndarray, optional
        Inputs as the network takes them, in batches (N, ...): some hundreds, such as it will see.
        An ONNX file with QuantizeLinear needs none: its codes are taken as they are, and none of
        the other arguments but `strict` counts.
    method : {"minmax", "percentile", "entropy"}
        What range of the numbers seen codes stand for.
    percentile : float
        Of 100 numbers, how many are within the range that ``"percentile"`` chooses.
    weight_bits : int
        2 to 8, of each weight; the memory is that of 8 in any case. Weights and activations whose
        steps have been learnt (`lowerconv.quant.prepare`) keep these.
    skip_first, skip_last : bool
        Whether the first, or the last, convolution or fully connected layer stays in float32.
    exclude : collection of str
        Names of further ones that do, such as ``"layer1.0.conv1"``.
    strict : bool
        Whether to refuse a network in which anything but those stays in float32.

    Returns
    -------
    IntegerNetwork

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong kind, out of range, or names no layer; there are no inputs to
        calibrate with, or NaN appears; or the network has nothing that integers can compute.

    Examples
    --------
    >>> import numpy as np
    >>> import lowerconv as lc
    >>> from lowerconv import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    >>> images = np.random.default_rng(0).standard_normal((32, 3, 8, 8), np.float32)
    >>> integer = lc.quantize(net, images)
    >>> bool(np.abs(integer(images) - net(images)).max() < 0.1)
    True
    """
    _check("method", Choice(METHODS), method)
    _check("percentile", Number(float, 50, 100), percentile)
    _check("weight_bits", Number(int, 2, 8), weight_bits)
    if not isinstance(net, Module):
        raise TypeError(f"net: got {type(net).__name__}, expected a Module")
    if isinstance(net, IntegerNetwork):
        raise TypeError("net: got an IntegerNetwork, expected one in float32")
    batches = _batches(calibration, net)
    first = next(batches, None)
    if first is None:
        raise ValueError("calibration: got no inputs, expected some that the network takes")
    net.check_input(first)
    graph = record(net, first.shape)
    excluded: set[Node] = set()
    if not has_codes(graph):
        take_learned_steps(graph)
        if calibration is None:
            raise ValueError("calibration: got None, expected inputs that the network takes")
        excluded = _excluded(graph, exclude, skip_first, skip_last)
        placement = QdqPlacement(graph, excluded)
        if not placement.values:
            raise ValueError("net: got no Conv2d or Linear that integers compute, expected some")
        ranges = _calibrate(net, graph, placement, first, batches, method, percentile)
        placement.insert(lambda values: _params([ranges[value] for value in values]), weight_bits)
    to_integers(graph)
    made = IntegerNetwork(graph, first.shape[1:])
    if strict:
        _refuse_floats(made, excluded)
    return made


def _params(ranges: list[tuple[float, float]]) -> QuantParams:
    """Return what the codes of tensors stand for that have one scale."""
    lows, highs = zip(*ranges, strict=True)
    return QuantParams.of_range(min(lows), max(highs))


def _refuse_floats(made: IntegerNetwork, excluded: set[Node]) -> None:
    """Raise ValueError where a layer has no integer form and the user has not left it out."""
    names = {_base(node) for node in excluded}
    left = [
        f"{name} ({type(layer).__name__})"
        for name, layer in made.float_layers.items()
        if name not in names and not isinstance(layer, OTHERS)
    ]
    if left:
        raise ValueError(
            f"strict: got True, and these have no integer form: {', '.join(left)}; expected a "
            "network without them, or strict=False"
        )


def _check(name: str, kind: Any, value: Any) -> None:
    try:
        kind.check(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _batches(calibration: Any, net: Module) -> Iterator[np.ndarray]:
    """Yield inputs in batches, none of them empty; zeros, where nobody gives any."""
    if calibration is None:
        declared = getattr(net, "input_shapes", ((),))[0] or ()
        if not declared or not all(isinstance(n, int) for n in declared[1:]):
            raise ValueError("calibration: got None, expected inputs that the network takes")
        batch = declared[0] if isinstance(declared[0], int) else 1
        calibration = np.zeros((batch, *declared[1:]), np.float32)
    if isinstance(calibration, np.ndarray):
        given: Iterable[Any] = (
            calibration[i : i + BATCH]
            for i in range(0, len(calibration) if calibration.ndim else 1, BATCH)
        )
    elif isinstance(calibration, Iterable) and not isinstance(calibration, (str, bytes, dict)):
        given = calibration
    else:
        kind = type(calibration).__name__
        raise TypeError(f"calibration: got {kind}, expected an array, or batches of such")
    for x in given:
        plain_array(x, "calibration")
        if x.dtype != np.float32 or not x.ndim:
            raise TypeError(f"calibration: got {x.dtype} {x.shape}, expected float32 (N, ...)")
        if len(x):
            yield contiguous(x, "calibration")


def record(net: Module, x_shape: tuple[int, ...]) -> Graph:
    """Return the graph of a network at inference, with copies of its parameters, nothing fused.

    Parameters
    ----------
    net : Module
    x_shape : tuple of int

    Returns
    -------
    Graph
        Batch norm is folded into the layers before it; there is no dropout.
    """
    graph = checked_graph(net, x_shape, np.dtype(np.float32), False)
    make_constant(net, graph)
    for node in [n for n in graph.nodes if isinstance(n.layer, Dropout)]:
        graph.replace(node.result, node.operands[0])
        graph.nodes.remove(node)
    return graph


def take_learned_steps(graph: Graph) -> None:
    """Have codes stand where a network has learnt their steps, instead of layers that round.

    Parameters
    ----------
    graph : Graph
        Is changed.
    """
    for node in list(graph.nodes):
        layer = node.layer
        if not isinstance(layer, LearnedStep) or not layer.step.data[0]:
            continue
        low, high = layer.range
        step = float(abs(layer.step.data[0]))
        params = QuantParams.of(step, 0, layer.signed, low, (high - low + 1).bit_length() - 1)
        codes = QuantizeLinear(params)(node.operands[0])
        numbers = DequantizeLinear(params)(codes)
        at = graph.nodes.index(node)
        graph.nodes[at : at + 1] = [codes.node, numbers.node]
        graph.replace(node.result, numbers)


def _excluded(
    graph: Graph, exclude: Collection[str], skip_first: bool, skip_last: bool
) -> set[Node]:
    """Return the products that the user leaves out."""
    if isinstance(exclude, str):
        raise TypeError(f"exclude: got {exclude!r}, expected a list of names")
    products = {_base(node): node for node in graph.nodes if is_product(node.layer)}
    found = set()
    for name in exclude:
        if name not in products:
            names = ", ".join(products)
            raise ValueError(f"exclude: got {name!r}, expected names among {names}")
        found.add(products[name])
    ends = list(products.values())
    found.update(ends[:1] if skip_first else [])
    found.update(ends[-1:] if skip_last else [])
    return found


def _base(node: Node) -> str:
    return node.name.rpartition(" ")[0]


def _calibrate(
    net: Module,
    graph: Graph,
    placement: QdqPlacement,
    first: np.ndarray,
    batches: Iterator[np.ndarray],
    method: str,
    percentile: float,
) -> dict[Value, tuple[float, float]]:
    """Return the range of each value that becomes codes."""
    order = {node.result: i for i, node in enumerate(graph.nodes)}
    wanted = {order.get(value, -1): Observer(method != "minmax") for value in placement.values}
    program = Program(net, graph, False, False, Arena())
    x: np.ndarray | None = first
    shape = first.shape
    while x is not None:
        if x.shape != shape:  # the last batch
            shape, again = x.shape, record(net, x.shape)
            take_learned_steps(again)
            program = Program(net, again, False, False, Arena())
        _observe(program, x, wanted)
        x = next(batches, None)
    at = (wanted[order.get(value, -1)] for value in placement.values)
    return {
        value: observer.range(method, percentile)
        for value, observer in zip(placement.values, at, strict=True)
    }


def _observe(program: Program, x: np.ndarray, wanted: dict[int, Observer]) -> None:
    """Have observers see what a program computes of a batch."""
    number = {id(frame): i for i, (_, frame) in enumerate(program.steps)}

    def watch(layer: Layer, frame: Frame, what: str) -> None:
        observer = wanted.get(number[id(frame)])
        if observer is not None:
            _see(observer, frame.y.array, frame.name)

    if -1 in wanted:
        _see(wanted[-1], x, "the input")
    program.forward(x, INFERENCE, (watch,))


def _see(observer: Observer, x: np.ndarray, name: str) -> None:
    try:
        observer.see(x)
    except ValueError as error:
        raise ValueError(f"calibration: {name}: {error}") from None
