"""A module of PyTorch whose forward and backward run as one planned program."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import numpy as np
import torch

from lowerconv.nn.memory import Arena
from lowerconv.nn.program import Program
from lowerconv.nn.step import Step
from lowerconv.runtime.affinity import generation
from lowerconv.runtime.threads import get_num_threads
from lowerconv.torch.network import TorchNetwork
from lowerconv.torch.registry import NotConverted

NETWORKS = 8  # kept: one for each mode, and for shapes that one recording does not cover
PROGRAMS = 16  # kept of each network


class NotConvertedError(RuntimeError):
    """A module that cannot be converted; the message tells all that is in the way."""


class NotConvertedWarning(UserWarning):
    """A module runs as PyTorch has it; the message tells why."""


def convert(model: torch.nn.Module, *example: torch.Tensor, strict: bool = False) -> Any:
    """Return a module that computes what `model` does, as one planned program.

    Parameters, buffers and children are those of `model`: training the result trains it, in place,
    by any optimizer; ``state_dict`` is the same.  `model` itself is not changed and still runs as
    before.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU, of float32 or float64.
    *example : Tensor
        Inputs such as will come; extents may differ later.
    strict : bool
        Whether what cannot be converted is an error; else the result runs as PyTorch has it, and a
        warning tells why.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    NotConvertedError
        With `strict`: all operators that are not known, or whatever else is in the way.

    Examples
    --------
    >>> import torch, lowerconv.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    >>> fast = lowerconv.torch.convert(model, torch.zeros(1, 3, 32, 32))
    >>> fast(torch.zeros(4, 3, 40, 40)).shape
    torch.Size([4, 8, 38, 38])
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    if not example or not all(isinstance(x, torch.Tensor) for x in example):
        raise TypeError("example: got no tensors, expected the inputs of the model")
    converted = copy.copy(model)
    converted.__class__ = _class_of(type(model))
    converted.__dict__["_runner"] = runner = Runner(model, example, strict)
    try:
        runner.network(converted, example)
    except NotConverted as reason:
        runner.give_up(reason)
    return converted


def _class_of(kind: type) -> type:
    """Return a class like another whose forward is ours."""
    made = _classes.get(kind)
    if made is None:
        made = type(kind.__name__, (_Converted, kind), {"__module__": kind.__module__})
        _classes[kind] = made
    return made


_classes: dict[type, type] = {}


class _Converted:
    """What converted modules have in common."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute as one program, or as PyTorch does where that is not possible."""
        return self.__dict__["_runner"].run(self, inputs, options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        runner = self.__dict__["_runner"]
        return convert(copy.deepcopy(runner.original(self), memo), *runner.example, strict=runner.strict)

    def __reduce_ex__(self, protocol: Any) -> Any:
        runner = self.__dict__["_runner"]
        return _again, (runner.original(self), runner.example, runner.strict)


def _again(model: torch.nn.Module, example: tuple[torch.Tensor, ...], strict: bool) -> Any:
    return convert(model, *example, strict=strict)


class Plan:
    """A network recorded once, its programs, and what they depend on.

    Attributes
    ----------
    network : TorchNetwork
    dims : tuple of tuple of (int or None)
        Extents of the inputs, None where any will do.
    """

    def __init__(self, network: TorchNetwork, dims: Any) -> None:
        self.network, self.dims = network, dims
        self.programs: dict[Any, list[Program]] = {}
        self.arena = Arena()  # of inference, where no program waits for its backward

    def fits(self, shapes: Any) -> bool:
        """Return whether inputs of these shapes are covered."""
        return all(
            len(dims) == len(shape)
            and all(d is None or d == n for d, n in zip(dims, shape, strict=True))
            for dims, shape in zip(self.dims, shapes, strict=True)
        )

    def take(self, shape: Any, dtype: Any, input_grad: bool) -> tuple[Any, Program]:
        """Return a program that nobody else uses, and its key: one whose backward is to come waits.

        In training each has an arena: any number may wait for their backward.
        """
        network = self.network
        key = (shape, dtype, input_grad, get_num_threads(), generation())
        free = self.programs.setdefault(key, [])
        if free:
            return key, free.pop()
        while len(self.programs) > PROGRAMS:
            del self.programs[next(iter(self.programs))]
        training = not network.frozen
        arena = Arena() if training else self.arena
        made = Program(network, shape, dtype, training, input_grad, arena, network.frozen)
        return key, made

    def give_back(self, key: Any, program: Program) -> None:
        """Let others use a program."""
        self.programs.setdefault(key, []).append(program)


class Runner:
    """Runs a converted module: records it anew where its mode or its tensors have changed.

    Parameters
    ----------
    model : Module
        What was converted.
    example : tuple of Tensor
    strict : bool
    """

    def __init__(self, model: torch.nn.Module, example: tuple[Any, ...], strict: bool) -> None:
        self._model, self.strict = [model], strict
        self.example = tuple(x.detach().clone() for x in example)
        self.plans: dict[Any, list[Plan]] = {}
        self.reason: str | None = None
        self._lock = threading.RLock()
        self._look(model)

    def original(self, converted: Any) -> torch.nn.Module:
        """Return the module as PyTorch has it, in the converted one's mode."""
        model = self._model[0]
        model.training = converted.training
        return model

    def give_up(self, reason: Exception) -> None:
        """Raise, or warn once, that the module runs as PyTorch has it."""
        message = f"{type(self._model[0]).__name__} runs as PyTorch has it: {reason}"
        if self.strict:
            raise NotConvertedError(message) from reason
        self.reason = str(reason)
        warnings.warn(message, NotConvertedWarning, stacklevel=4)

    # --- what the programs depend on ---

    def _look(self, model: torch.nn.Module) -> None:
        """Note all tensors, and who holds them."""
        self.modules = list(model.modules())
        self.tensors: dict[str, torch.Tensor] = {}
        self._held: list[tuple[dict[str, Any], str, torch.Tensor]] = []
        for prefix, module in model.named_modules(remove_duplicate=False):
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        self.tensors[f"{prefix}.{name}" if prefix else name] = tensor
                        self._held.append((held, name, tensor))
        self.parameters = [name for name, _ in model.named_parameters()]
        self._state = self._versions()

    def _versions(self) -> list[Any]:
        return [(t._version, t.data_ptr()) for _, _, t in self._held]

    def _changed(self) -> None:
        """Forget what was recorded with tensors that others have replaced or changed since."""
        if any(held.get(name) is not tensor for held, name, tensor in self._held):
            self.plans.clear()
            self._look(self._model[0])
            return
        versions = self._versions()
        if versions != self._state:
            moved = any(a[1] != b[1] for a, b in zip(versions, self._state, strict=True))
            self._state = versions
            if moved:
                self.plans.clear()
            for plans in self.plans.values():
                for plan in plans:
                    if plan.network.frozen or plan.network.uses_statistics:
                        plan.programs.clear()

    def _hooked(self) -> bool:
        return any(
            m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
            for m in self.modules[1:]
        )

    # --- networks ---

    def network(self, converted: Any, inputs: Any, frozen: bool | None = None) -> Plan:
        """Return the plan for these inputs in the module's present mode."""
        modes = tuple(m.training for m in self.modules[1:])
        if frozen is None:
            frozen = not (converted.training or any(modes))
        key = (frozen, converted.training, modes)
        shapes = tuple(tuple(x.shape) for x in inputs)
        plans = self.plans.setdefault(key, [])
        for plan in plans:
            if plan.fits(shapes):
                return plan
        plan = self._record(self.original(converted), inputs, frozen)
        plans.append(plan)
        del plans[:-NETWORKS]
        return plan

    def _record(self, model: torch.nn.Module, inputs: Any, frozen: bool) -> Plan:
        for x in inputs:
            if x.device.type != "cpu" or x.layout != torch.strided:
                raise NotConverted(f"an input on {x.device}, {x.layout}")
            if x.dtype not in (torch.float32, torch.float64):
                raise NotConverted(f"an input of {x.dtype}, expected float32 or float64")
            if not x.dim() or not x.numel():
                raise NotConverted(f"an input of shape {tuple(x.shape)}")
        shown = tuple(_several(x.detach()) for x in inputs)
        free = {i: torch.export.Dim.AUTO for i in range(max(x.dim() for x in shown))}
        dynamic = tuple({i: free[i] for i in range(x.dim())} for x in shown)
        with torch.no_grad():
            program = _exported(model, shown, dynamic)
        network = TorchNetwork(program, self.tensors, frozen)
        signature = program.graph_signature
        dims = []
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in signature.user_inputs:
                shape = node.meta["val"].shape
                dims.append(tuple(n if isinstance(n, int) else None for n in shape))
        plan = Plan(network, tuple(dims))
        network.record(*_signature(inputs))
        return plan

    # --- running ---

    def run(self, converted: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Compute; see `_Converted.forward`."""
        if self.reason is not None:
            return self.original(converted)(*inputs, **options)
        try:
            if options or not all(isinstance(x, torch.Tensor) for x in inputs):
                raise NotConverted("arguments by name, or that are no tensors")
            if torch.is_autocast_enabled("cpu"):
                raise NotConverted("autocast")
            if len(inputs) != len(self.example):
                raise NotConverted(f"{len(inputs)} inputs, expected {len(self.example)}")
            with self._lock:
                self._changed()
                if self._hooked():
                    raise NotConverted("a part of it has hooks")
                plan = self.network(converted, inputs)
        except NotConverted as reason:
            self.give_up(reason)
            return self.original(converted)(*inputs, **options)
        # In evaluation a backward, if one comes, records the network again, with gradients.
        names = self.parameters if plan.network.frozen else plan.network.parameter_names
        parameters = [self.tensors[name] for name in names]
        learning = torch.is_grad_enabled() and (
            any(p.requires_grad for p in parameters) or any(x.requires_grad for x in inputs)
        )
        if not learning:
            with self._lock:
                return _packed(self._infer(plan, inputs))
        results = _Network.apply(self, converted, plan, names, len(inputs), *inputs, *parameters)
        return _packed(results)

    def _infer(self, plan: Plan, inputs: Any) -> tuple[torch.Tensor, ...]:
        """Return results without a backward to come."""
        arrays = _arrays(inputs)
        key, program = plan.take(*_signature(inputs), False)
        results = _results(program.forward(arrays, self._step(plan)))
        self._count(plan)
        plan.give_back(key, program)
        return results

    def _step(self, plan: Plan) -> Step:
        network = plan.network
        if network.frozen:
            return Step()
        seed = int(torch.randint(2**31, ()).item()) if network.drops else 0
        return Step(training=True, seed=seed)

    def _count(self, plan: Plan) -> None:
        """Count a step of batch norm, and tell PyTorch which buffers have changed."""
        network = plan.network
        if network.frozen or not network.counters:
            return
        with torch.no_grad():
            for counter in network.counters:
                counter.add_(1)
        torch.autograd.graph.increment_version(network.changed_buffers)

    def begin(self, plan: Plan, inputs: Any, input_grad: bool) -> Any:
        """Run forward; return results, and what `finish` wants."""
        with self._lock:
            key, program = plan.take(*_signature(inputs), input_grad)
            arrays = _arrays(inputs)
            results = _results(program.forward(arrays, self._step(plan)))
            self._count(plan)
        return results, (plan, key, program, arrays)

    def finish(self, begun: Any, gradients: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """Run backward; return the gradients of the input and of all parameters by name."""
        plan, key, program, _ = begun
        network = plan.network
        with self._lock:
            made = []
            for name, parameter in network.bound:
                fresh = torch.empty(parameter.data.shape, dtype=self.tensors[name].dtype)
                made.append((name, fresh))
                parameter.grad = fresh.numpy()
            dy = tuple(g.detach().contiguous().numpy() for g in gradients)
            dx = program.backward(dy)
            copied = None if dx is None else torch.from_numpy(dx.copy())
            plan.give_back(key, program)
        found: dict[str, torch.Tensor] = {}
        for name, gradient in made:  # one that several layers have gets the sum
            whole = gradient.reshape(self.tensors[name].shape)
            found[name] = found[name] + whole if name in found else whole
        return copied, found


class _Network(torch.autograd.Function):
    """The whole network as one function of its inputs and parameters."""

    @staticmethod
    def forward(
        ctx: Any, runner: Any, converted: Any, plan: Any, names: Any, count: int, *tensors: Any
    ) -> Any:
        inputs = tensors[:count]
        ctx.runner, ctx.plan, ctx.converted = runner, plan, converted
        ctx.names = names
        ctx.save_for_backward(*tensors)
        if count > 1 and any(ctx.needs_input_grad[5 : 5 + count]):
            raise RuntimeError("gradients of several inputs are not there, expected one input")
        if plan.network.frozen:  # a backward in evaluation computes forward once more
            with runner._lock:
                results, ctx.begun = runner._infer(plan, inputs), None
        else:
            results, ctx.begun = runner.begin(plan, inputs, ctx.needs_input_grad[5])
        ctx.count = count
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        tensors = ctx.saved_tensors
        inputs, begun = tensors[: ctx.count], ctx.begun
        runner = ctx.runner
        if begun is None:
            plan = ctx.plan
            if plan.network.frozen:
                plan = runner.network(ctx.converted, inputs, frozen=False)
            else:
                raise RuntimeError(
                    "backward: a second time through the same forward; call forward again"
                )
            _, begun = runner.begin(plan, inputs, ctx.needs_input_grad[5])
        ctx.begun = None
        dx, found = runner.finish(begun, gradients)
        needed = ctx.needs_input_grad[5 + ctx.count :]
        of_parameters = [
            found.get(name) if wanted else None
            for name, wanted in zip(ctx.names, needed, strict=True)
        ]
        return (None, None, None, None, None, dx, *[None] * (ctx.count - 1), *of_parameters)


def _exported(model: torch.nn.Module, example: Any, dynamic: Any) -> Any:
    """Return what `torch.export` records; NotConverted where it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, example, dynamic_shapes=dynamic)
    except Exception as error:  # of the compiler, which has many
        first = str(error).strip().splitlines()
        raise NotConverted(f"torch.export: {type(error).__name__}: {first[0] if first else ''}") from error


def _several(x: torch.Tensor) -> torch.Tensor:
    """Return an input with two samples at least: one would be recorded as a constant extent."""
    return x.repeat(2, *(1,) * (x.dim() - 1)) if x.shape[0] == 1 else x


def _signature(inputs: Any) -> tuple[Any, Any]:
    """Return shapes and dtypes as `Graph` takes them."""
    shapes = tuple(tuple(x.shape) for x in inputs)
    dtypes = tuple(np.dtype(str(x.dtype).removeprefix("torch.")) for x in inputs)
    return (shapes, dtypes) if len(inputs) > 1 else (shapes[0], dtypes[0])


def _arrays(inputs: Any) -> Any:
    arrays = tuple(x.detach().contiguous().numpy() for x in inputs)
    return arrays if len(arrays) > 1 else arrays[0]


def _results(results: Any) -> tuple[torch.Tensor, ...]:
    """Return tensors of the caller's own."""
    several = results if isinstance(results, tuple) else (results,)
    return tuple(torch.from_numpy(r.copy()) for r in several)


def _packed(results: tuple[torch.Tensor, ...]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)
