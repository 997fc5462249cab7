"""Modules of PyTorch whose forward runs as one planned program."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils import _pytree as pytree

from lowerconv.nn.step import Step
from lowerconv.torch.exported import Exported
from lowerconv.torch.network import array_of
from lowerconv.torch.registry import UnsupportedError
from lowerconv.torch.runner import Runner
from lowerconv.torch.structure import Structure

TRACES = 16  # kept by a module, the latest


def convert(model: torch.nn.Module, example: Any, *, strict: bool = False) -> torch.nn.Module:
    """Return a module that computes the same, as one planned program of this library.

    Its parameters and buffers are those of `model`, under the same names: optimizers, `state_dict`,
    `train` and `eval`, `requires_grad` and gradients work as before.  Shapes of the input may
    change: each new one is planned once, and the latest are kept.

    Parameters
    ----------
    model : torch.nn.Module
        On the CPU, in float32 or float64.
    example : Tensor or tuple
        What `model` is called with.
    strict : bool
        Whether what cannot be converted is an error; else the module stays as it was, with a
        warning that tells why.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    UnsupportedError
        With `strict`: all operators that are not known, or other reasons.

    Examples
    --------
    >>> model = lowerconv.torch.convert(model, images)  # doctest: +SKIP
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    args = example if isinstance(example, tuple) else (example,)
    converted = Converted(model, strict)
    try:
        converted._prepare(args)
    except UnsupportedError as error:
        message = f"{type(model).__name__} is not converted: {error}"
        if strict:
            raise UnsupportedError(message) from error
        warnings.warn(message, stacklevel=2)
        return model
    return converted


class Converted(torch.nn.Module):
    """What `convert` returns: the parts of another module, and a forward of its own.

    Where a call needs what is not converted (a shape with which the module does something else,
    training with an operator that is not known there), the original runs, with a warning the first
    time; with `strict` that is an error.

    Parameters
    ----------
    original : torch.nn.Module
        Has the parameters and buffers.
    strict : bool
        As for `convert`.
    """

    def __init__(self, original: torch.nn.Module, strict: bool) -> None:
        object.__setattr__(self, "_original", original)
        mode = original.training
        super().__init__()
        original.training = mode
        for kept in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[kept] = original.__dict__[kept]
        self.__dict__.update(
            _strict=strict,
            _warned=set(),
            _structure=None,
            _runners={},
            _known={},
            _turn=threading.RLock(),
        )

    @property
    def training(self) -> bool:
        """Whether the module is in training: as the original is."""
        return bool(self.__dict__["_original"].training)

    @training.setter
    def training(self, mode: bool) -> None:  # numpydoc ignore=GL08
        self.__dict__["_original"].training = mode

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_original"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" or name in self.__dict__:
            super().__setattr__(name, value)
        else:
            setattr(self.__dict__["_original"], name, value)

    def __reduce__(self) -> Any:
        return Converted, (self.__dict__["_original"], self._strict)

    def extra_repr(self) -> str:
        """Return the original's class."""
        return f"{type(self._original).__name__} that runs in lowerconv"

    # --- running ---

    @torch.compiler.disable
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute what the original does.

        Parameters
        ----------
        *args, **kwargs
            What the original takes.

        Returns
        -------
        Tensor, or a structure of tensors
            As the original returns it.

        Raises
        ------
        UnsupportedError
            With `strict`: what keeps the call from being computed here.
        RuntimeError
            Inside of ``torch.autocast``.
        """
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError(
                "a converted module got torch.autocast, expected to be called outside of it: it "
                "computes in the dtype of its parameters"
            )
        try:
            with self._turn:
                if kwargs:
                    raise UnsupportedError(f"keyword arguments: {', '.join(kwargs)}")
                return self._run(self._prepare(args), args)
        except UnsupportedError as error:
            if self._strict:
                raise
            if str(error) not in self._warned:
                self._warned.add(str(error))
                name = type(self._original).__name__
                warnings.warn(f"{name} runs in PyTorch: {error}", stacklevel=2)
            return self._original.forward(*args, **kwargs)

    def _prepare(self, args: Sequence[Any]) -> Runner:
        """Return what runs the module for arguments like these."""
        structure = self._structure
        if structure is None or not structure.holds():
            structure = self.__dict__["_structure"] = Structure(self._original)
            self._runners.clear()
            self._known.clear()
        structure.check_hooks()
        key = (structure.flags(), tuple(map(_kind, args)))
        runner: Runner | None = self._known.get(key)
        if runner is not None:
            return runner
        runners = self._runners.setdefault(key[0], [])
        runner = next((r for r in runners if r.exported.accepts(args)), None)
        if runner is None:
            runner = Runner(Exported(self._original, args), structure)
        runner.check([args[place] for _, place in runner.exported.inputs])
        if runner not in runners:
            runners.append(runner)
            del runners[:-TRACES]
        while len(self._known) >= 4 * TRACES:
            del self._known[next(iter(self._known))]
        self._known[key] = runner
        return runner

    def _run(self, runner: Runner, args: Sequence[Any]) -> Any:
        exported = runner.exported
        inputs = [args[place] for _, place in exported.inputs]
        results: Sequence[Any]
        if torch.is_grad_enabled() or exported.trains:
            tensors = [runner.structure.tensor(name) for name in runner.read]
            seed = int(torch.empty((), dtype=torch.int64).random_()) if exported.draws else 0
            results = _Run.apply(_Job(runner, seed, len(inputs)), *inputs, *tensors)
        else:  # without autograd, which looks at every parameter
            results = runner.answer(tuple(map(array_of, inputs)), runner.versions())
        network = runner._frozen if not exported.trains else runner._network
        assert network is not None
        if len(network.literal) == 1 and exported.out_spec.num_nodes == 1:
            return results[0]
        outputs = [results[what] if kind == "result" else what for kind, what in network.literal]
        return pytree.tree_unflatten(outputs, exported.out_spec)


def _kind(arg: Any) -> Any:
    """Return what a trace depends on; raise UnsupportedError for what is not computed here."""
    if not isinstance(arg, torch.Tensor):
        if arg is None or isinstance(arg, (bool, int, float, str)):
            return arg
        raise UnsupportedError(f"an argument of {type(arg).__name__}, expected tensors")
    if type(arg) not in (torch.Tensor, torch.nn.Parameter):
        raise UnsupportedError(f"an argument of {type(arg).__name__}, expected a plain tensor")
    if arg.device.type != "cpu" or arg.layout != torch.strided:
        raise UnsupportedError(f"a tensor on {arg.device}, {arg.layout}; expected a dense CPU one")
    if arg.dtype in (torch.bfloat16, torch.float16) or arg.is_complex():
        raise UnsupportedError(f"a tensor of {arg.dtype}, expected float32 or float64")
    if not arg.numel():
        raise UnsupportedError("a tensor without items")
    return arg.dtype, tuple(arg.shape)


@dataclass
class _Job:
    """A run: what its forward leaves for its backward step."""

    runner: Runner
    seed: int
    inputs: int
    number: int = -1
    versions: Any = None


class _Run(torch.autograd.Function):
    """The whole network as one function of autograd."""

    @staticmethod
    def forward(ctx: Any, job: _Job, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        runner = job.runner
        arrays = tuple(array_of(t) for t in tensors[: job.inputs])
        ctx.job = job
        ctx.input_grad = tuple(ctx.needs_input_grad[1 : 1 + job.inputs])
        ctx.save_for_backward(*tensors)
        if not runner.exported.trains:
            # The gradient's network runs when somebody asks for gradients: answers are quicker.
            job.versions = runner.versions()
            results = runner.answer(arrays, job.versions)
        else:
            results = runner.train(arrays, _step(job, ctx.input_grad))
            job.number = runner.runs
        ctx.mark_non_differentiable(*(r for r in results if not r.is_floating_point()))
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        job: _Job = ctx.job
        runner = job.runner
        tensors = ctx.saved_tensors  # raises where one has changed since
        if job.versions is not None and runner.versions() != job.versions:
            raise RuntimeError("backward: a parameter or buffer has changed since the forward step")
        arrays = tuple(array_of(t) for t in tensors[: job.inputs])
        needs = ctx.needs_input_grad[1 + job.inputs :]
        names = runner.read
        wanted = [name for name, need in zip(names, needs, strict=True) if need]
        dxs, made = runner.gradients(job.number, arrays, _step(job, ctx.input_grad), dys, wanted)
        return (None, *dxs, *(made.get(name) for name in names))


def _step(job: _Job, input_grad: tuple[bool, ...]) -> Step:
    return Step(training=True, seed=job.seed, input_grad=input_grad)
