"""A network cut in two, so that its parts can run in different ways on different ranks.

A cut goes through one value, the border: everything that the result depends on before it is the
front, everything after it the back::

    x --> conv1 --> relu --> conv2 --> flatten --+--> fc1 --> relu --> fc2 --> scores
              \\-> head of the front              border = "fc1"
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lowerconv.nn.graph import Graph, Node, Value
from lowerconv.nn.layer import Layer
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Module, Shape
from lowerconv.nn.recording import parameter_dtype


class NetworkPart(Module):
    """Some layers of a network, under the names that they have there.

    Parameters
    ----------
    layers : list of (str, Layer)
    """

    layers: list[tuple[str, Layer]]

    def __init__(self, layers: list[tuple[str, Layer]]) -> None:
        super().__init__()
        self.set_layers(layers)

    def set_layers(self, layers: list[tuple[str, Layer]]) -> None:
        """Consist of other layers: not children, as their names have dots."""
        self.__dict__["layers"] = layers

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and its layers, in the order that the network has them."""
        yield prefix.rstrip("."), self
        for name, layer in self.layers:
            yield f"{prefix}{name}", layer

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the parameters of the layers anew."""
        for _, layer in self.layers:
            layer.initialize(rng)


class Front(NetworkPart):
    """What comes before the border; made by :func:`cut_network`.

    Its result is the border; in training those auxiliary results of the network follow that do not
    depend on it.

    Attributes
    ----------
    auxiliary : tuple of int
        Which results of the network these are.
    """

    def __init__(self, cutting: _Cutting, layers: list[tuple[str, Layer]]) -> None:
        super().__init__(layers)
        self._cutting = cutting
        self.auxiliary = cutting.front_results

    def forward(self, *values: Value) -> Value | tuple[Value, ...]:
        """Record the layers before the border."""
        (x,) = values
        graph, border = self._cutting.record(x.shape, x.dtype)
        graph.replace(graph.input, x)
        others = tuple(graph.results[i] for i in self.auxiliary)
        return (border, *others) if others else border


class Back(NetworkPart):
    """What comes after the border; made by :func:`cut_network`.

    It takes the border, and returns the network's result; in training those auxiliary results
    follow that depend on the border.

    Attributes
    ----------
    results : tuple of int
        Which results of the network these are, the first included.
    """

    def __init__(self, cutting: _Cutting, layers: list[tuple[str, Layer]]) -> None:
        super().__init__(layers)
        self._cutting = cutting
        self.results = cutting.back_results

    def forward(self, *values: Value) -> Value | tuple[Value, ...]:
        """Record the layers after the border."""
        (x,) = values
        graph, border = self._cutting.record((x.shape[0], *self._cutting.image_shape), x.dtype)
        if border.shape != x.shape:
            raise ValueError(f"x: got shape {x.shape}, expected that of the border {border.shape}")
        graph.replace(border, x)
        results = tuple(graph.results[i] for i in self.results)
        return results if len(results) > 1 else results[0]


class _Cutting:
    """A network and the place of its border.

    Nodes get their numbers in the whole network: they decide what dropout drops.
    """

    def __init__(self, network: Module, name: str, image_shape: Shape) -> None:
        self.network, self.name, self.image_shape = network, name, image_shape
        graph, border = self.record((1, *image_shape), parameter_dtype(network))
        self.back_layers, self.front_results, self.back_results = _divide(graph, border)

    def record(self, x_shape: Shape, dtype: np.dtype) -> tuple[Graph, Value]:
        """Return the graph of the whole network, as in training, and its border."""
        graph = Graph(self.network, x_shape, dtype, training=True)
        return graph, _border(graph, _layers_of(self.network, self.name))


def cut_network(network: Module, border: str, image_shape: Shape) -> tuple[Front, Back]:
    """Cut a network in two.

    Parameters
    ----------
    network : Module
        Whose layers both parts use, and go on sharing with it.
    border : str
        The name of the first layer after the border, or of a module that it is the first of, as in
        ``network.modules()``. Everything that the result depends on has to go through the value
        that this layer reads.
    image_shape : (C, H, W)

    Returns
    -------
    front : Front
        Layers that nothing uses stay here.
    back : Back

    Raises
    ------
    ValueError
        The border is no layer, or is passed by; the message lists those that are possible.

    Examples
    --------
    >>> import numpy as np
    >>> from lowerconv import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    >>> front, back = cut_network(net, "3", (3, 6, 6))
    >>> list(front.parameters()), list(back.parameters())
    (['0.weight', '0.bias'], ['3.weight', '3.bias'])
    >>> x = np.ones((2, 3, 6, 6), np.float32)
    >>> bool((back(front(x)) == net(x)).all())
    True
    """
    try:
        cutting = _Cutting(network, border, tuple(image_shape))
    except ValueError as error:
        possible = ", ".join(borders(network, image_shape)) or "no layer at all"
        raise ValueError(f"border: got {border!r}, {error}; possible: {possible}") from None
    front: list[tuple[str, Layer]] = []
    back: list[tuple[str, Layer]] = []
    for name, module in network.modules():
        if isinstance(module, Layer):
            (back if id(module) in cutting.back_layers else front).append((name, module))
    return Front(cutting, front), Back(cutting, back)


def borders(network: Module, image_shape: Shape) -> list[str]:
    """Return the names of all layers that can be the first after a border, in order."""
    graph = Graph(network, (1, *image_shape), parameter_dtype(network), training=True)
    names = {id(module): name for name, module in network.modules()}
    found, seen = [], set()
    for node in graph.nodes:
        name = names.get(id(node.layer))
        if name and name not in seen:
            seen.add(name)
            if _fits(graph, node):
                found.append(name)
    return found


def default_border(network: Module, image_shape: Shape) -> str:
    """Return the first fully connected layer that everything goes through.

    The convolutions before it are computed often and have few weights, it and those after it the
    reverse: Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014),
    section 3.

    Raises
    ------
    ValueError
        There is none.
    """
    layers = dict(network.modules())
    for name in borders(network, image_shape):
        if isinstance(layers[name], Linear):
            return name
    raise ValueError(
        f"border: {type(network).__name__} has no fully connected layer that everything goes "
        "through, expected the name of the first layer after the border"
    )


def _fits(graph: Graph, node: Node) -> bool:
    try:
        _divide(graph, _read_by(graph, node))
    except ValueError:
        return False
    return True


def _layers_of(network: Module, name: str) -> set[int]:
    """Return all modules that a name stands for: one, and those that it is made of."""
    found = {id(m) for n, m in network.modules() if n == name or n.startswith(f"{name}.")}
    if not found or not name:
        raise ValueError("which is no layer of the network")
    return found


def _border(graph: Graph, after: set[int]) -> Value:
    """Return what the first of some layers reads."""
    for node in graph.nodes:
        if id(node.layer) in after:
            return _read_by(graph, node)
    raise ValueError("which the network does not use")


def _read_by(graph: Graph, node: Node) -> Value:
    if any(value is not node.operands[0] for value in node.inputs):
        raise ValueError("which reads several values")
    if node.operands[0] is graph.input:
        raise ValueError("before which there is nothing")
    return node.operands[0]


def _divide(graph: Graph, border: Value) -> tuple[set[int], tuple[int, ...], tuple[int, ...]]:
    """Return the layers after a border, and which results are made before it and after it."""
    free, bound = {graph.input}, {border}  # reached from the input past the border, and from it
    layers = set()
    for node in graph.nodes:
        if node.result is border:
            continue
        if any(value in free for value in node.inputs):
            free.add(node.result)
        if any(value in bound for value in node.inputs):
            bound.add(node.result)
            layers.add(id(node.layer))
    for number, result in enumerate(graph.results):
        if (result in bound) == (result in free) or (number == 0 and result in free):
            raise ValueError("but results of the network depend on more than what it reads")
    numbers = range(len(graph.results))
    at = [graph.results[number] in bound for number in numbers]
    return layers, tuple(n for n in numbers if not at[n]), tuple(n for n in numbers if at[n])
