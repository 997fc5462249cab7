"""What networks are made of: parameters, layers, and modules that put layers together."""

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
from lowerconv.nn.frame import Frame
from lowerconv.nn.graph import Node, Value
from lowerconv.nn.hooks import Gate, Handle, Hooks, Watch
from lowerconv.nn.memory import MemoryReport
from lowerconv.nn.schedule import Schedule
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

    What becomes of attributes is said by `Attributes`.  A deep copy, and what is unpickled, has
    parameters of its own; a shallow copy shares children and parameters.  Either begins without
    programs, `watch` and `gate`.

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
    frozen = False  # whether parameters never change, so that kernels may keep them packed
    looked_at: tuple[int, ...] = ()  # numbers of inputs whose contents `forward` depends on

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        """Start without what copies of a module do not share: programs know addresses."""
        self.__dict__.pop("_made_use", None)
        self._watches: Hooks = OrderedDict()
        self._gates: Hooks = OrderedDict()

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

    def forward(self, *values: Any, **_: Any) -> Any:  # so that mypy lets others name theirs
        """Return the value, or the tuple of values, that the module makes of `values`.

        Of a tuple the first is the result; the others exist in training only, for auxiliary losses.
        """
        raise NotImplementedError

    def __call__(self, *values: Any) -> Any:
        """Apply the module: to values in another module's `forward`, or to an array, at inference.

        An array gives an array of its own, to any thread; use `run` to get one written again.
        """
        if values and isinstance(values[0], np.ndarray):
            return program.answer(self, values[0] if len(values) == 1 else values)
        return self.forward(*values)

    # --- parameters ---

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it with their names, such as ``"features.0"``.

        One that is in several places comes once, under its first name.
        """
        yield prefix.rstrip("."), self
        seen: set[int] = set()
        for name, child in self._children.items():
            for found in child.modules(f"{prefix}{name}."):
                if id(found[1]) not in seen:
                    seen.add(id(found[1]))
                    yield found

    def own_parameters(self) -> dict[str, Parameter]:
        """Return the parameters of this module itself by name: its attributes that are such."""
        attributes = list(self.__dict__.items())  # at once: other threads may add some of theirs
        return {name: p for name, p in attributes if isinstance(p, Parameter)}

    def own_buffers(self) -> dict[str, np.ndarray]:
        """Return what this module itself keeps beside its parameters, and does not learn."""
        return {}

    def parameters(self) -> dict[str, Parameter]:
        """Return all parameters by name, such as ``"features.0.weight"``; a shared one once."""
        found: dict[int, tuple[str, Parameter]] = {}
        for name, module in self.modules():
            for own, parameter in module.own_parameters().items():
                found.setdefault(id(parameter), (f"{name}.{own}" if name else own, parameter))
        return dict(found.values())

    def buffers(self) -> dict[str, np.ndarray]:
        """Return the arrays that are kept with the parameters but not learnt, by name."""
        return {
            f"{name}.{own}" if name else own: array
            for name, module in self.modules()
            for own, array in module.own_buffers().items()
        }

    def initialize(self, rng: np.random.Generator) -> None:
        """Draw the parameters of all layers anew, in order."""
        for child in self._children.values():
            child.initialize(rng)

    # --- running ---

    def check_input(self, *xs: np.ndarray) -> None:
        """Raise TypeError or ValueError where arrays are not what the module takes."""
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
            This machine cannot hold the batch; the message tells the largest that it can.
        RuntimeError
            Another thread is inside a training step of the module, or of a part, in training.
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

    def register_watch(self, watch: Watch, *, first: bool = False) -> Handle:
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
        Handle
            Its ``remove()`` ends this.
        """
        return Handle(self._watches, watch, first)

    def register_gate(self, gate: Gate) -> Handle:
        """Have a function called with each layer that is about to compute forward.

        It returns when the parameters may be read: so who updates them late stays outside, too.
        """
        return Handle(self._gates, gate)

    def compile(self, x_shape: Shape) -> Callable[[np.ndarray], np.ndarray]:
        """Return the module as a function for inference, with the parameters as they are now.

        Batch norm is folded into the convolutions before it, and filters are packed once. The
        function has copies of all parameters and buffers: changes are not seen, the module may go.

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
        """Return how many bytes a step with an input of this shape needs, by kind."""
        return program.memory_report(self, shape(x_shape, "x_shape"), training)

    def save(self, path: str | Path) -> None:
        """Write parameters and buffers as safetensors, under PyTorch's names."""
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
        """Take parameters and buffers from a safetensors file or a dict of arrays."""
        exchange.load_weights(self, weights)


Module._reserved = frozenset(dir(Module()))


class Layer(Module):
    """A module that computes: one node of the graph.

    What a layer computes with is in a `Frame`, one for each place where it is applied.

    Attributes
    ----------
    keeps_x, keeps_y : bool
        Whether `differentiate` reads what the layer was given, or what it returned.
    in_place : bool
        Whether a result may be written over the first operand, and the gradient of that over the
        result's.
    is_view : bool
        Whether the result is the first operand in another shape.
    takes_relu, takes_residual : bool
        Whether the layer can apply a ReLU that follows it, and before that add another value.
    is_sum, is_relu, is_concatenation : bool
        Whether the layer adds two values, is a ReLU, or sets values side by side: graphs make it
        part of its neighbours.
    schedule : Schedule
        When the layer has its turn.
    """

    keeps_x = False
    keeps_y = False
    in_place = False
    is_view = False
    takes_relu = False
    takes_residual = False
    is_sum = False
    is_relu = False
    is_concatenation = False
    schedule = Schedule.IN_ORDER

    def forward(self, *values: Value) -> Value:
        """Record the layer."""
        for i, value in enumerate(values):
            if not isinstance(value, Value):
                name = f"values[{i}]" if len(values) > 1 else "x"
                raise TypeError(f"{name}: got {type(value).__name__}, expected a numpy array")
        shapes = tuple(value.shape for value in values)
        return Node(self, values, self.result_shape(*shapes), values[0].dtype).result

    def result_shape(self, *shapes: Shape) -> Shape:
        """Return the shape of the result; raise ValueError where operands do not fit."""
        raise NotImplementedError

    def absorbs(self, following: Layer) -> Layer | None:
        """Return a layer that does what this one and then `following` do at inference, if any."""
        return None

    def scale_and_shift(self, channels: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the factor and the summand of each channel, if it is only that at inference."""
        return None

    def saved(self, *shapes: Shape) -> dict[str, tuple[Shape, Any]]:
        """Return shapes and dtypes of what the layer keeps from a forward to a backward step."""
        return {}

    def flops(self, *shapes: Shape) -> int:
        """Return the additions and multiplications of a forward step that count: of products."""
        return 0

    def prepare(self, frame: Frame) -> None:
        """Decide once how to compute a frame."""

    def compute(self, frame: Frame, step: Step) -> None:
        """Write ``frame.y``."""
        raise NotImplementedError

    def differentiate(self, frame: Frame, step: Step) -> None:
        """Set the gradients of the parameters, and write or add to ``frame.dxs``.

        ``frame.dy`` is complete and nobody else's: it may be changed.  ``frame.dresidual`` comes
        before ``frame.dxs``, each of these in its turn.
        """
        raise NotImplementedError

    def differentiate_weights(self, frame: Frame, step: Step) -> None:
        """Set the gradients that `differentiate` leaves with ``WEIGHT_GRADIENTS_LATER``."""


Layer._reserved = frozenset(dir(Layer()))
