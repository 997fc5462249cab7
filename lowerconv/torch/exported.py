"""A module's operators, as torch.export traces them for a range of shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind

from lowerconv.torch import operators  # noqa: F401  (fills the table)
from lowerconv.torch.patterns import response_norms
from lowerconv.torch.registry import (
    UnsupportedError,
    draws,
    makes_view,
    operator_of,
    writes_in_place,
)
from lowerconv.torch.tracing import traced

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
    watched : list of (dict, str, Tensor, int)
        Tensors that are attributes, not parameters or buffers: where, and their versions.
    counted : list of str
        Buffers of integers that every run adds one to, and that it does not read.
    updated : dict of str to str
        Other buffers that a run changes, by the names of their nodes.
    sources : list of set of str
        For each output the inputs, parameters and buffers that its gradient comes to.
    trains, draws : bool
        Whether a run changes buffers, or does what it does in training alone; whether dropout
        needs a seed.
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
        self.program = program = traced(module, args, kwargs)
        signature = program.graph_signature
        self.leaves: dict[str, str] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.inputs: list[tuple[str, int]] = []
        self.watched: list[tuple[dict[str, Any], str, torch.Tensor, int]] = []
        self._own = dict(module.named_buffers(remove_duplicate=False))
        place = 0
        for spec in signature.input_specs:
            name, target = spec.arg.name, spec.target
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self.leaves[name] = str(target)
            elif spec.kind == InputKind.CONSTANT_TENSOR:
                self.constants[name] = self._constant(module, str(target))
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
        self.updated: dict[str, str] = {}
        self._check()
        self.sources = self._find_sources()
        self.trains = any(_in_training(node) for node in self.nodes)
        self.trains |= bool(self.counted or self.updated)
        self.draws = any(draws(node.target) and _in_training(node) for node in self.nodes)

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
                if self._counts(node, first):
                    continue
                root = base.get(first, first)
                reason = self._cannot_write(node, root, first, users)
                if reason is None and self._read_later(node, root, first, base, order):
                    reason = f"a value whose views are read later ({node})"
                if reason is not None:
                    reasons.append(f"{target} changes {reason}")
                elif root.name in self.leaves:
                    self.updated[root.name] = self.leaves[root.name]
            reads = draws(target) or _depends(node, {*users, *self.leaves})
            if operator_of(target) is None and reads:
                missing[str(target)] += 1
        if missing:
            listed = ", ".join(f"{name} ({n} times)" for name, n in sorted(missing.items()))
            reasons.insert(0, f"operators that are not known: {listed}")
        if reasons:
            raise UnsupportedError("; ".join(reasons))

    def _constant(self, module: torch.nn.Module, target: str) -> torch.Tensor:
        """Return a tensor that is neither parameter nor buffer, and watch it if it is an attribute.

        Raises UnsupportedError where gradients of it are asked for.
        """
        *path, name = target.split(".")
        found: torch.Tensor = self.program.constants[target]
        if found.requires_grad:
            raise UnsupportedError(f"{target!r} asks for gradients, and is no parameter")
        owner: Any = module
        for part in path:
            owner = getattr(owner, part, None)
        kept = getattr(owner, "__dict__", {})
        own = kept.get(name)
        if isinstance(own, torch.Tensor):
            self.watched.append((kept, name, own, own._version))
        return found

    def _counts(self, node: Any, first: Any) -> bool:
        """Return whether a node adds one to a buffer that nobody reads, and note that."""
        buffer = (first, *self._written(first))[-1]
        name = self.leaves.get(buffer.name)
        same = name is not None and self._counting(node, buffer)
        same = same and all(self._counting(user, buffer) for user in buffer.users)
        if same and name is not None:
            self.nodes.remove(node)
            if str(node.target) == "aten.add_.Tensor":
                self.counted.append(name)
        return same

    def _counting(self, node: Any, buffer: Any) -> bool:
        """Return whether a node adds one to a buffer of integers, or only says that it did."""
        target = str(node.target)
        if target not in ("aten.add_.Tensor", "aten.copy_.default"):
            return False
        first, *rest = node.args
        if buffer not in (first, *self._written(first)):
            return False
        if target == "aten.copy_.default":  # of what it is already
            return buffer in self._written(rest[0])
        plain = rest == [1] and not node.kwargs and not buffer.meta["val"].is_floating_point()
        copied = all(self._counting(user, buffer) for user in node.users)
        return plain and copied

    def _find_sources(self) -> list[set[str]]:
        """Return the inputs, parameters and buffers that gradients of each output come to."""
        found: dict[Any, set[str]] = {}
        inputs = {name for name, _ in self.inputs}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                name = self.leaves.get(node.name, node.name if node.name in inputs else None)
                found[node] = set() if name is None else {name}
                continue
            value = node.meta.get("val")
            several = isinstance(value, (tuple, list))
            floats = isinstance(value, torch.Tensor) and value.is_floating_point()
            reached: set[str] = set()
            if (several or floats) and not str(node.target).startswith("aten.detach."):
                reached.update(*(found.get(other, set()) for other in node.all_input_nodes))
            found[node] = reached
            if node.op == "call_function" and writes_in_place(node.target):
                for other in self._written(node):
                    found[other] = reached
        return [
            found.get(o, set()) if isinstance(o, torch.fx.Node) else set() for o in self.outputs
        ]

    def _cannot_write(self, node: Any, root: Any, first: Any, users: set[str]) -> str | None:
        """Return what a node writes to that it may not, None where it may."""
        if root.name in users:
            return f"the input {root.name!r} in place"
        name = self.leaves.get(root.name)
        if name is None:
            return None
        if name not in self._own:
            return f"the parameter {name!r} in place"
        if first is not root and root not in self._written(first):
            return f"a part of {name!r} in place"
        if not self._own[name].is_floating_point():
            return f"{name!r} of {self._own[name].dtype} in place"
        return None

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
                fixed = expected if isinstance(expected, int) else expected.node.maybe_as_int()
                if fixed is None:
                    env = expected.node.shape_env
                elif fixed != extent:
                    return False
            symbolic.append((value, arg))
        if env is None:
            return True
        return bool(
            env.evaluate_guards_for_args(
                [value for value, _ in symbolic], [arg for _, arg in symbolic]
            )
        )


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
    if name.startswith(("aten.dropout", "aten.feature_dropout")):
        return bool(node.args[2]) and node.args[1] > 0
    return draws(node.target)
