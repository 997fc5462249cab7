"""What torch.export traces of a module, its parts without gradients inline."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from lowerconv.torch.registry import UnsupportedError

# Logs pages of inequalities between extents that it cannot solve, and goes on without them.
SOLVER = logging.getLogger("torch.fx.experimental.symbolic_shapes")


def traced(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return a module as torch.export traces it, with all extents free that can be.

    Parameters
    ----------
    module : torch.nn.Module
    args : tuple
    kwargs : dict
        What it is called with.

    Returns
    -------
    torch.export.ExportedProgram

    Raises
    ------
    UnsupportedError
        It cannot be traced; or the trace would not do all that the module does.
    """

    def free(arg: Any) -> Any:
        if not isinstance(arg, torch.Tensor):
            return None
        return {i: Dim.AUTO for i, n in enumerate(arg.shape) if n > 1}

    for name, part in module.named_modules():
        if getattr(part, "momentum", 0) is None and part.training:
            raise UnsupportedError(f"momentum=None of the {type(part).__name__} {name!r}")
    plain, named = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
    bound = inspect.signature(module.forward).bind(*plain, **named).arguments
    errors = []
    program = None
    with warnings.catch_warnings(), _errors_alone(SOLVER), _attributes_set(module) as changed:
        warnings.simplefilter("ignore")
        for shapes in (pytree.tree_map(free, dict(bound) if named else plain), None):
            try:
                program = torch.export.export(
                    module, plain, named, dynamic_shapes=shapes, strict=False
                )
                break
            except Exception as error:  # of torch, of any class
                errors.append(str(error).strip().split("\n")[0])
    if program is None:
        raise UnsupportedError(f"torch.export cannot trace it: {errors[-1]}")
    if changed:
        raise UnsupportedError(
            f"its forward sets {', '.join(sorted(changed))}, which a traced one would not"
        )
    _inline(program.graph_module)
    return program


@contextmanager
def _errors_alone(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _attributes_set(module: torch.nn.Module) -> Iterator[set[str]]:
    """Give what forward sets of attributes; torch.export undoes that, and says nothing of it."""
    kinds = torch.fx.GraphModule  # which compile themselves when they are called
    parts = [(name, part) for name, part in module.named_modules() if not isinstance(part, kinds)]
    forward, own = module.forward, module.__dict__.get("forward")
    changed: set[str] = set()

    @functools.wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        before = [_attributes(part) for _, part in parts]
        result = forward(*args, **kwargs)
        for (name, part), old in zip(parts, before, strict=True):
            for attribute, leaves in _attributes(part).items():
                if not _alike(leaves, old.get(attribute, ())):
                    where = f" of {name!r}" if name else ""
                    changed.add(f"the attribute {attribute!r}{where}")
        return result

    module.__dict__["forward"] = watched
    try:
        yield changed
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


def _attributes(part: torch.nn.Module) -> dict[str, list[Any]]:
    """Return the values of a module's attributes, other than parameters, buffers and submodules."""
    kept = ("_parameters", "_buffers", "_modules", "forward")
    return {k: pytree.tree_leaves(v) for k, v in part.__dict__.items() if k not in kept}


def _alike(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Return whether the items of two are the same objects, or equal numbers and texts."""
    plain = (int, float, str)
    return len(a) == len(b) and all(
        x is y or (isinstance(x, plain) and isinstance(y, plain) and x == y)
        for x, y in zip(a, b, strict=True)
    )


def _is_of_floats(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _inline(module: torch.fx.GraphModule) -> None:
    """Put what is traced under ``torch.no_grad`` and the like where it is called."""
    graph: Any = module.graph
    for node in list(graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function":
            continue
        arguments: Any = node.args
        if name == "wrap_with_set_grad_enabled":
            grad, part, *operands = arguments
        elif name == "wrap_with_autocast" and not arguments[2]:
            grad, part, operands = True, arguments[4], list(arguments[5:])
        else:
            continue
        inner: Any = getattr(module, part.target)
        _inline(inner)
        holders = [n for n in inner.graph.nodes if n.op == "placeholder"]
        with graph.inserting_before(node):
            known: Any = dict(zip(holders, operands, strict=True))
            results: Any = graph.graph_copy(inner.graph, known)
            single = not isinstance(results, (tuple, list))
            results = [results] if single else list(results)
            for i, result in enumerate(results):
                if not grad and _is_of_floats(result):
                    results[i] = graph.call_function(torch.ops.aten.detach.default, (result,))
                    results[i].meta = dict(result.meta)
        for user in list(node.users):
            number: Any = user.args[1]
            user.replace_all_uses_with(results[number])
            graph.erase_node(user)
        graph.erase_node(node)
        if not part.users:
            graph.erase_node(part)
