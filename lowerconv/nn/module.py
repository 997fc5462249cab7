"""Modules: what networks are, and what their layers and blocks have in common."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lowerconv.checks import shape
from lowerconv.conv.problem import DTYPES
from lowerconv.nn import exchange, export, program, recording
from lowerconv.nn.attributes import Attributes, Parameter
from lowerconv.nn.graph import Graph
from lowerconv.nn.hooks import Gate, HookHandle, Hooks, Watch
from lowerconv.nn.memory import MemoryReport
from lowerconv.nn.sharing import Use
from lowerconv.nn.step import INFERENCE, Step

Shape = tuple[int, ...]


_changes = count(1)


class Module(Attributes):
    """Layers put together; the base of networks, their blocks, and the layers themselves.

    As in PyTorch, modules that are attributes of a module are its children, and their names give
    those of the parameters.  `forward` tells how values flow through the children.  It is called
    once for every shape of the input, with values that stand for arrays; what it records is planned
    as a whole (`lowerconv.nn.program`): which memory every array uses, what is done in one pass.

    `Attributes` says which attributes become children and parameters.  A deep copy, and what is
    unpickled, has parameters of its own; a shallow copy shares children and parameters.  Both begin
    without the programs, watches and gates of the original.

    Examples
    --------
    >>> import numpy as np
    >>> from lowerconv import nn
    >>> class Block(nn.Module):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...         self.left = nn.Conv2d(channels, 4, 1)
    ...         self.right = nn.Conv2d(channels, 8, 3, padding=1)
    ...
    ...     def forward(self, x):
    ...         return nn.relu(nn.concat(self.left(x), self.right(x)))
    >>> block = Block(3)
    >>> block(np.ones((2, 3, 5, 5), np.float32)).shape
    (2, 12, 5, 5)
    >>> list(block.parameters())
    ['left.weight', 'left.bias', 'right.weight', 'right.bias']
    """

    returns_all = False  # at inference, too, all values that `forward` returns
    precision = "float32"  # of what layers pass on: see `lowerconv.nn.precision`
    frozen = False  # whether parameters never change, so that kernels may keep them packed
    _watches: Hooks
    _gates: Hooks
    looked_at: tuple[int, ...] = ()  # numbers of inputs whose contents `forward` depends on

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        """Start without what copies of a module do not share: programs know addresses."""
        own = self.__dict__  # without `__setattr__`: layers are made in thousands
        own.pop("_made_use", None)
        own["_watches"], own["_gates"] = OrderedDict(), OrderedDict()

    @property
    def _use(self) -> Use:
        """What threads run the module with; most layers are never run on their own."""
        made = self.__dict__.get("_made_use")
        # Of two threads that make one both get the first.
        return made or self.__dict__.setdefault("_made_use", Use())

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(self.__dict__)
        for name in ("_made_use", "_watches", "_gates"):
            kept.pop(name, None)
        kept.pop("_recorded", None)
        kept["_children"] = dict(self._children)  # of shallow copies, too
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def forward(self, *values: Any, **_: Any) -> Any:
        """Return what the module makes of values: written by each network and block.

        Parameters
        ----------
        *values : Value
            What stands for the inputs.
        **_
            Nothing: type checkers then let overriding functions name their parameters.

        Returns
        -------
        Value or tuple of Value
            Of a tuple the first is the result; the others exist in training only, for auxiliary
            losses.
        """
        raise NotImplementedError

    def __call__(self, *values: Any) -> Any:
        """Apply the module: to values in another module's `forward`, or to an array, at inference.

        Given an array it returns a new one, in any thread; `run` returns one that the next run
        overwrites.
        """
        if values and isinstance(values[0], np.ndarray):
            return program.infer(self, values[0] if len(values) == 1 else values)
        return self.forward(*values)

    # --- parameters ---

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it with their names, such as ``"features.0"``.

        One that is in several places comes once, under its first name.

        Parameters
        ----------
        prefix : str
            In front of all names.

        Yields
        ------
        name : str
        module : Module
        """
        yield prefix.rstrip("."), self
        seen: set[int] = set()
        for name, child in self._children.items():
            for found in child.modules(f"{prefix}{name}."):
                if id(found[1]) not in seen:
                    seen.add(id(found[1]))
                    yield found

    def own_parameters(self) -> dict[str, Parameter]:
        """Return the parameters that are attributes of this module itself, by name."""
        attributes = list(self.__dict__.items())  # at once: other threads may add some of theirs
        return {name: p for name, p in attributes if isinstance(p, Parameter)}

    def own_buffers(self) -> dict[str, np.ndarray]:
        """Return the arrays that this module itself keeps and does not learn, by name."""
        return {}

    def parameters(self) -> dict[str, Parameter]:
        """Return all parameters by name, such as ``"features.0.weight"``; a shared one once."""
        found: dict[int, tuple[str, Parameter]] = {}
        for name, module in self.modules():
            for own, parameter in module.own_parameters().items():
                found.setdefault(id(parameter), (f"{name}.{own}" if name else own, parameter))
        return dict(found.values())

    def buffers(self) -> dict[str, np.ndarray]:
        """Return all arrays that are kept with the parameters but not learnt, by name."""
        return {
            f"{name}.{own}" if name else own: array
            for name, module in self.modules()
            for own, array in module.own_buffers().items()
        }

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the parameters of all layers anew, in order.

        Parameters
        ----------
        rng : Generator
            Of NumPy.
        """
        for child in self._children.values():
            child.initialize(rng)

    def rewrite(self, graph: Graph) -> None:
        """Change the graph of the module where its parameters never change: here not at all.

        Parameters
        ----------
        graph : Graph
            At inference; nothing in it has been fused.
        """

    # --- running ---

    def check_input(self, *xs: np.ndarray) -> None:
        """Raise an error unless the module takes these arrays.

        Parameters
        ----------
        *xs : ndarray
            One, of the dtype of the parameters.

        Raises
        ------
        TypeError, ValueError
            Another number of arrays, another dtype, or an array without axes.
        """
        if len(xs) != 1:
            raise TypeError(f"x: got {len(xs)} arrays, expected one")
        (x,) = xs
        expected = recording.parameter_dtype(self, x.dtype)
        if x.dtype != expected:
            raise TypeError(f"x: got dtype {x.dtype}, expected {expected}, that of the parameters")
        if x.dtype not in DTYPES:
            raise TypeError(f"x: got dtype {x.dtype}, expected float32 or float64")
        if not x.ndim:
            raise ValueError("x: got shape (), expected a batch (N, ...)")

    def run(self, x: np.ndarray, step: Step = INFERENCE) -> Any:
        """Compute the result for a batch.

        Parameters
        ----------
        x : ndarray, (N, C, H, W) or (N, features)
            Of the dtype of the parameters.
        step : Step
            With ``training=True`` what `backward` needs is kept until then.

        Returns
        -------
        ndarray or tuple of ndarray
            Arrays of the module, valid until the thread runs it again. A tuple only in training,
            where `forward` returns one.

        Raises
        ------
        TypeError, ValueError
            `x` is not what the module takes.
        MemoryError
            This machine cannot hold the batch; the message tells the largest batch that it can.
        RuntimeError
            In training: another thread is inside a training step of the module or of a part.
        """
        return program.run(self, x, step)

    def backward(self, *dy: np.ndarray) -> Any:
        """Set the gradients of all parameters, after `run` in training.

        Parameters
        ----------
        *dy : ndarray
            Gradient of the loss with respect to each result of `run`.

        Returns
        -------
        ndarray or None
            Gradient of the loss with respect to `x` where the step asked for it, valid as `run`'s;
            of several inputs a tuple with one for each.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            A gradient does not fit; no run of this thread came before, or another thread has
            trained the module since.
        """
        return program.backward(self, dy)

    def register_watch(self, watch: Watch, *, first: bool = False) -> HookHandle:
        """Have a function told of each layer that has computed, when this module runs.

        So what measures and looks for errors stays outside of networks.

        Parameters
        ----------
        watch : callable
            Called with ``(layer, frame, "forward" or "backward")``.
        first : bool
            Before all that were registered earlier; else after them.

        Returns
        -------
        HookHandle
            Its ``remove()`` ends this.
        """
        return HookHandle(self._watches, watch, first)

    def register_gate(self, gate: Gate) -> HookHandle:
        """Have a function called with each layer that is about to compute forward.

        The layer waits until it returns. So strategies that still receive updated parameters keep
        layers from reading them too early, and networks know nothing of strategies.

        Parameters
        ----------
        gate : callable
            Called with the layer.

        Returns
        -------
        HookHandle
            Its ``remove()`` ends this.
        """
        return HookHandle(self._gates, gate)

    def compile(self, x_shape: Shape) -> Callable[[np.ndarray], np.ndarray]:
        """Return the module as a function for inference, with the parameters as they are now.

        Batch norm is folded into the convolutions before it, and filters are packed once. The
        function has copies of all parameters and buffers: it does not see later changes, and does
        not need the module.

        Parameters
        ----------
        x_shape : tuple of int
            Of the arrays that the function takes.

        Returns
        -------
        callable
            Given an array, returns one of the caller's own; several threads take turns.
        """
        return program.compiled(self, shape(x_shape, "x_shape"))

    def memory_report(self, x_shape: Shape, training: bool = True) -> MemoryReport:
        """Return how many bytes a step with an input of this shape needs, by kind.

        Parameters
        ----------
        x_shape : tuple of int
            Of the input.
        training : bool
            Whether a backward step follows.

        Returns
        -------
        MemoryReport
            In bytes; printed it is a table.
        """
        return program.memory_report(self, shape(x_shape, "x_shape"), training)

    def save(self, path: str | Path) -> None:
        """Write parameters and buffers as safetensors, under PyTorch's names.

        Parameters
        ----------
        path : path

        Raises
        ------
        OSError
            It cannot be written; what was there before is still whole.
        """
        exchange.save_weights(self, path)

    def save_onnx(self, path: str | Path, x_shape: Shape) -> None:
        """Write the network as an ONNX file, as it is at inference; needs the package onnx.

        Parameters
        ----------
        path : path
        x_shape : tuple of int
            Of the input.

        Raises
        ------
        ValueError
            A layer has no form in ONNX; all such are told.
        ImportError
            The package onnx is not installed.
        """
        dtype = recording.parameter_dtype(self, np.float32)
        export.save_onnx(self, path, shape(x_shape, "x_shape"), dtype)

    def load(self, weights: Any) -> None:
        """Set all parameters and buffers; nothing is changed where one does not fit.

        Parameters
        ----------
        weights : path or mapping of str to array
            A safetensors file, or arrays or tensors of PyTorch by name, such as a state_dict:
            exactly what the network has. Other floating-point types are converted.

        Raises
        ------
        TypeError, ValueError, OSError
            As :func:`lowerconv.nn.exchange.load_weights`; the message names file and tensor.
        """
        exchange.load_weights(self, weights)


Module._reserved = frozenset(dir(Module()))
