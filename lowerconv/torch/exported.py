"""A module's operators, as torch.export traces them for a range of shapes."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from lowerconv.torch import operators  # noqa: F401  (fills the table)
from lowerconv.torch.patterns import response_norms
from lowerconv.torch.registry import UnsupportedError, makes_view, operator_of, writes_in_place

# Logs pages of inequalities between extents that it cannot solve, and goes on without them.
SOLVER = logging.getLogger("torch.fx.experimental.symbolic_shapes")

# Checks of what the guards tell, too.
IGNORED = (
    "_assert_scalar",
    "_assert_tensor_metadata",
    "sym_constrain_range_for_size",
    "sym_constrain_range",
    "_assert_async",
)


class Exported:
    """A module, traced.

    Attributes
    ----------
    nodes : list of torch.fx.Node
        All but inputs and result.
    leaves : dict of str to str
        Parameters and buffers by the names of their nodes.
    constants : dict of str to Tensor
    inputs : list of (str, int)
        Names of nodes for tensors, and the places of these among the arguments.
    outputs : list
        Nodes, or numbers and None.
    response_norms : dict of Node to ResponseNorm
        By the nodes of their results; the nodes within are not among `nodes`.
    counted : list of str
        Buffers that every step in training adds one to.
    trains, draws : bool
        Whether operators do what they do in training alone; whether dropout needs a seed.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        given: Sequence[Any] | None = None,
    ) -> None:
        kwargs = kwargs or {}
        given = args if given is None else given
        self.program = program = _export(module, args, kwargs)
        signature = program.graph_signature
        self.leaves: dict[str, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.inputs: list[tuple[str, int]] = []
        place = 0
        for spec in signature.input_specs:
            name, target = spec.arg.name, spec.target
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.leaves[name] = str(target)
            elif spec.kind == InputKind.CONSTANT_TENSOR:
                self.constants[name] = program.constants[str(target)]
            elif spec.kind == InputKind.USER_INPUT:
                if isinstance(given[place], torch.Tensor):
                    self.inputs.append((name, place))
                place += 1
            else:
                raise UnsupportedError(f"an input of the kind {spec.kind.name}")
        for out in signature.output_specs:
            if out.kind not in (OutputKind.USER_OUTPUT, OutputKind.BUFFER_MUTATION):
                raise UnsupportedError(f"a result of the kind {out.kind.name}")
        self.nodes = []
        self.outputs: list[Any] = []
        for node in program.graph.nodes:
            if node.op == "output":
                self.outputs = list(node.args[0])
            elif node.op == "call_module" and "_guards_fn" in str(node.target):
                continue
            elif node.op != "placeholder":
                self.nodes.append(node)
        self.response_norms = response_norms(self.nodes)
        inside = {node for norm in self.response_norms.values() for node in norm.inside}
        self.nodes = [node for node in self.nodes if node not in inside]
        self.out_spec = program.call_spec.out_spec
        self.counted: list[str] = []
        self._check()
        self.trains = any(_in_training(node) for node in self.nodes)
        self.draws = any("dropout" in str(n.target) and _in_training(n) for n in self.nodes)

    def _check(self) -> None:
        """Raise UnsupportedError with all operators that are not known; find what is counted."""
        missing: Counter[str] = Counter()
        reasons: list[str] = []
        users = {name for name, _ in self.inputs}
        base: dict[Any, Any] = {}
        order = {node: i for i, node in enumerate(self.nodes)}
        for node in list(self.nodes):
            target = node.target
            if node.op != "call_function":
                missing[f"{node.op} {target}"] += 1
                continue
            first = node.args[0] if node.args else None
            schema = getattr(target, "_schema", None)
            if schema is None or schema.name.removeprefix("aten::") in IGNORED:
                if getattr(target, "__name__", "") == "getitem":
                    base[node] = base.get(first, first)
                elif schema is None and not _is_arithmetic_of_shapes(node):
                    missing[str(target)] += 1
                continue
            if makes_view(target) and isinstance(first, torch.fx.Node):
                base[node] = base.get(first, first)
            if writes_in_place(target) and isinstance(first, torch.fx.Node):
                if first.name in self.leaves and str(target) == "aten.add_.Tensor":
                    self.counted.append(self.leaves[first.name])
                    self.nodes.remove(node)
                    continue
                root = base.get(first, first)
                if root.name in users:
                    reasons.append(f"{target} changes the input {root.name!r} in place")
                elif root.name in self.leaves:
                    reasons.append(f"{target} changes {self.leaves[root.name]!r} in place")
                elif self._read_later(node, root, first, base, order):
                    reasons.append(f"{target} changes a value whose views are read later ({node})")
            if operator_of(target) is None and _depends(node, {*users, *self.leaves}):
                missing[str(target)] += 1
        if missing:
            listed = ", ".join(f"{name} ({n} times)" for name, n in sorted(missing.items()))
            reasons.insert(0, f"operators that are not known: {listed}")
        if reasons:
            raise UnsupportedError("; ".join(reasons))

    def _read_later(self, node: Any, root: Any, first: Any, base: Any, order: Any) -> bool:
        """Return whether other views of what a node changes are read after it."""
        same = {first, *self._written(first)}
        group = [n for n in self.program.graph.nodes if n is root or base.get(n) is root]
        return any(
            order.get(user, len(order)) > order[node]
            for member in group
            if member not in same and order.get(member, -1) < order[node]
            for user in member.users
        )

    def _written(self, node: Any) -> list[Any]:
        """Return the nodes that name the very same value as another, by writing in place."""
        found = []
        while node.op == "call_function" and writes_in_place(node.target):
            node = node.args[0]
            found.append(node)
        return found

    def accepts(self, given: Sequence[Any]) -> bool:
        """Return whether the trace is right for arguments, whose shapes may be others."""
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        known = {n.name: n.meta["val"] for n in placeholders}
        env = None
        symbolic = []
        for name, place in self.inputs:
            value, arg = known[name], given[place]
            if value.dtype != arg.dtype or value.dim() != arg.dim():
                return False
            for expected, extent in zip(value.shape, arg.shape, strict=True):
                if isinstance(expected, int):
                    if expected != extent:
                        return False
                else:
                    env = expected.node.shape_env
            symbolic.append((value, arg))
        if env is None:
            return True
        return bool(
            env.evaluate_guards_for_args(
                [value for value, _ in symbolic], [arg for _, arg in symbolic]
            )
        )


def _export(module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
    """Trace with all extents free that can be, or with these alone."""

    def free(arg: Any) -> Any:
        if not isinstance(arg, torch.Tensor):
            return None
        return {i: Dim.AUTO for i, n in enumerate(arg.shape) if n > 1}

    for name, part in module.named_modules():
        if getattr(part, "momentum", 0) is None and part.training:
            raise UnsupportedError(f"momentum=None of the {type(part).__name__} {name!r}")
    plain, named = pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs))
    errors = []
    with warnings.catch_warnings(), _errors_alone(SOLVER):
        warnings.simplefilter("ignore")
        bound = inspect.signature(module.forward).bind(*plain, **named).arguments
        for shapes in (pytree.tree_map(free, dict(bound) if named else plain), None):
            try:
                return torch.export.export(
                    module, plain, named, dynamic_shapes=shapes, strict=False
                )
            except Exception as error:  # of torch, of any class
                errors.append(str(error).strip().split("\n")[0])
    raise UnsupportedError(f"torch.export cannot trace it: {errors[-1]}")


@contextmanager
def _errors_alone(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _is_arithmetic_of_shapes(node: Any) -> bool:
    value = node.meta.get("val")
    return isinstance(value, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool))


def _depends(node: Any, names: set[str]) -> bool:
    """Return whether a node reads more than constants, directly or through others."""
    if str(node.target).startswith("aten.sym_"):
        return False
    stack, seen = list(node.all_input_nodes), set()
    while stack:
        other = stack.pop()
        if other in seen:
            continue
        seen.add(other)
        if other.name in names:
            return True
        stack += [] if _is_arithmetic_of_shapes(other) else other.all_input_nodes
    return False


def _in_training(node: Any) -> bool:
    """Return whether an operator does what it does in training alone."""
    name = str(node.target)
    if name.startswith("aten.batch_norm"):
        return bool(node.args[5])
    return name.startswith("aten.dropout") and bool(node.args[2]) and node.args[1] > 0
