"""Modules of PyTorch whose forward runs as one planned program."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from lowerconv.torch.exported import Exported
from lowerconv.torch.function import Job, Run
from lowerconv.torch.network import array_of
from lowerconv.torch.registry import UnsupportedError
from lowerconv.torch.runner import Runner
from lowerconv.torch.structure import Structure

TRACES = 16  # kept by a module, the latest
RESTLESS = 4  # changes of attributes, each after fewer calls than that, before nothing is traced


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
        converted._prepare(args, {})
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
            _calm=0,
            _restless=0,
            _lock=threading.RLock(),
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
        """
        try:
            with self._lock:
                return self._run(args, kwargs)
        except UnsupportedError as error:
            if self._strict:
                raise
            if str(error) not in self._warned:
                self._warned.add(str(error))
                name = type(self._original).__name__
                warnings.warn(f"{name} runs in PyTorch: {error}", stacklevel=2)
            return self._original.forward(*args, **kwargs)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Runner, Any]:
        """Return what runs the module for arguments like these, and the flat list of these."""
        if torch.is_autocast_enabled("cpu"):
            raise UnsupportedError(
                "torch.autocast, expected a call outside of it: all is computed in the dtype of "
                "the parameters"
            )
        if torch._C._are_functorch_transforms_active():
            raise UnsupportedError("a transform of torch.func, such as grad or vmap")
        structure = self._structure
        reason = None if structure is None else structure.changed()
        if structure is None or reason:
            structure = self.__dict__["_structure"] = Structure(self._original)
            self._runners.clear()
            self._known.clear()
            self.__dict__["_restless"] = self._restless + 1 if self._calm < RESTLESS else 0
            self.__dict__["_calm"] = 0
            if self._restless > RESTLESS and reason:
                raise UnsupportedError(f"{reason}, is another one with nearly every call")
        self.__dict__["_calm"] += 1
        structure.check_hooks()
        given: Any
        spec: Any
        if kwargs or not all(map(_is_tensor, args)):
            given, spec = pytree.tree_flatten((args, kwargs))
        else:  # as mostly
            given, spec = args, len(args)
        key = (structure.flags(), spec, *map(_kind, given))
        runner: Runner | UnsupportedError | None = self._known.get(key)
        if runner is None:
            while len(self._known) >= 4 * TRACES:
                del self._known[next(iter(self._known))]
            try:
                runner = self._runner_for(structure, args, kwargs, given, spec)
            except UnsupportedError as error:
                runner = error
            self._known[key] = runner
        if isinstance(runner, UnsupportedError):
            raise UnsupportedError(str(runner))
        return runner, given

    def _runner_for(
        self, structure: Structure, args: Any, kwargs: Any, given: Any, spec: Any
    ) -> Runner:
        """Return a runner that there is, or a new one."""
        runners = self._runners.setdefault((structure.flags(), spec), [])
        runner: Runner | None = next((r for r in runners if r.exported.accepts(given)), None)
        if runner is None:
            runner = Runner(Exported(self._original, args, kwargs, given), structure)
        runner.check([given[place] for _, place in runner.exported.inputs])
        if runner not in runners:
            runners.append(runner)
            del runners[:-TRACES]
        return runner

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        runner, given = self._prepare(args, kwargs)
        tensors = runner.leaves.look()
        if tensors is None:  # the traces are of other ones
            self.__dict__["_structure"] = None
            runner, given = self._prepare(args, kwargs)
            tensors = runner.leaves.look()
            assert tensors is not None
        exported = runner.exported
        inputs = [given[place] for _, place in exported.inputs]
        results: Sequence[Any]
        if torch.is_grad_enabled() or exported.trains:
            seed = int(torch.empty((), dtype=torch.int64).random_()) if exported.draws else 0
            job = Job(runner, self._lock, tensors, seed, len(inputs))
            results = Run.apply(job, *inputs, *(tensors[i] for i in runner.leaves.read))
        else:  # without autograd, which looks at every parameter
            results = runner.infer(tuple(map(array_of, inputs)), runner.leaves.versions(tensors))
        literal = runner.literal
        if len(literal) == 1 and exported.out_spec.num_nodes == 1:
            return results[0]
        outputs = [results[what] if kind == "result" else what for kind, what in literal]
        return pytree.tree_unflatten(outputs, exported.out_spec)


def _is_tensor(arg: Any) -> bool:
    return isinstance(arg, torch.Tensor)


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
