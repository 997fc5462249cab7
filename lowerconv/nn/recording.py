"""The graph of a module for a shape of its input, and the memory that it will take."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.machine.memory import memory_limit
from lowerconv.nn.freeze import freeze
from lowerconv.nn.graph import Graph, fold, fuse
from lowerconv.nn.planning import MemoryPlan
from lowerconv.nn.precision import store
from lowerconv.nn.template import Template

if TYPE_CHECKING:
    from lowerconv.nn.module import Module

TEMPLATES = 4  # of a network: for other numbers of axes, threads, contents that shapes depend on
Shape = tuple[int, ...]


def make_graph(
    module: Module,
    x_shape: Any,
    dtype: Any,
    training: bool,
    constant: bool = False,
    contents: Mapping[int, np.ndarray] | None = None,
    template: Template | None = None,
) -> Graph:
    """Return the graph of a module with everything in it that can be done in one pass.

    A `template` is told of it.
    """
    graph = checked_graph(module, x_shape, dtype, training, contents)
    graph.parameter_bytes = sum(p.data.nbytes for p in module.parameters().values())
    if template is not None:
        template.begin(graph)
    if constant:
        make_constant(module, graph)
        module.rewrite(graph)
    fuse(graph, training)
    store(graph, module.precision)
    if template is not None:
        template.finish(graph)
    return graph


def graph_for(
    module: Module,
    templates: dict[Any, Template | None],
    x_shape: Any,
    dtype: Any,
    contents: Mapping[int, np.ndarray],
    setting: Hashable,
) -> Graph | None:
    """Return the graph of a module whose parameters never change, from that for another shape.

    The second shape makes the template: most networks see but one.

    Parameters
    ----------
    module : Module
    templates : dict
        Of the module, bounded.
    x_shape, dtype
        Of the input; tuples of these where there are several.
    contents : dict of int to ndarray
    setting : hashable
        What graphs depend on beside these.

    Returns
    -------
    Graph or None
        None where it is to be recorded.
    """
    if not module.frozen or module._gates:
        return None
    shapes = x_shape if isinstance(dtype, tuple) else (x_shape,)
    key = tuple(map(len, shapes)), dtype, setting
    if key not in templates:
        while len(templates) >= TEMPLATES:
            templates.pop(next(iter(templates)))
        templates[key] = None
        return None
    template = templates[key]
    if template is not None:
        return template.graph(shapes) if template.fits else None
    template = Template()
    graph = make_graph(module, x_shape, dtype, False, True, contents, template)
    templates[key] = template
    return graph


def checked_graph(
    module: Module,
    x_shape: Any,
    dtype: Any,
    training: bool,
    contents: Mapping[int, np.ndarray] | None = None,
) -> Graph:
    """Return the graph of a module; all its layers with parameters are parts of the module."""
    graph = Graph(module, x_shape, dtype, training, contents)
    known = {id(part) for _, part in module.modules()}
    for node in graph.nodes:
        if id(node.layer) not in known and node.layer.own_parameters():
            raise ValueError(
                f"{type(module).__name__}.forward: applies a {type(node.layer).__name__} with "
                "parameters that is no part of the network and would be neither trained nor "
                "saved; expected it as an attribute, or in an nn.ModuleList"
            )
    return graph


def make_constant(module: Module, graph: Graph) -> None:
    """Let the parameters of a graph stay as they are now; layers absorb the scaling after them."""
    known = {id(part) for _, part in module.modules()}
    freeze(graph, tuple(module._gates.values()), known, module.frozen)
    fold(graph)


def parameter_dtype(module: Module, default: Any = np.float32) -> np.dtype:
    """Return the dtype of a module's parameters, or the default where it has none."""
    return next((p.data.dtype for p in module.parameters().values()), np.dtype(default))


def arena_bytes(module: Module, x_shape: Shape, training: bool) -> int:
    """Return the bytes of the arena of a step, without deciding anything else about it."""
    graph = make_graph(module, x_shape, parameter_dtype(module), training)
    return MemoryPlan(graph, training, False).nbytes


def check_fits(module: Module, x_shape: Shape, training: bool, needed: int) -> None:
    """Raise MemoryError, naming the batch that fits, where a process cannot have `needed` bytes."""
    if needed > memory_limit():
        raise MemoryError(_too_large(module, x_shape, training, needed))


def _too_large(module: Module, x_shape: Shape, training: bool, needed: int) -> str:
    """Say how much is missing, and with how large a batch nothing would be."""
    if x_shape and isinstance(x_shape[0], tuple):
        return (
            f"x: arrays of shapes {x_shape} need {needed:,} bytes, this process can have "
            f"{memory_limit():,}"
        )
    N, *rest = x_shape

    def size(batch: int) -> int:
        return arena_bytes(module, (batch, *rest), training)

    kept = needed - size(N)
    fits, fails = 0, N
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if size(middle) + kept <= memory_limit():
            fits = middle
        else:
            fails = middle
    advice = f"a batch of {fits} fits" if fits else "not even a single image fits"
    return (
        f"x: a batch of {N} needs {needed:,} bytes, this process can have {memory_limit():,}; "
        + advice
    )
