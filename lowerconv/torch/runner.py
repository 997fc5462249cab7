"""Runs of a traced module: frozen for answers, and in training with gradients for autograd."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from lowerconv.nn.computed import Computed
from lowerconv.nn.graph import Graph
from lowerconv.nn.program import Program, program_of
from lowerconv.nn.sharing import Execution
from lowerconv.nn.step import INFERENCE, Step
from lowerconv.torch.exported import Exported
from lowerconv.torch.gradients import Gradients, LentArray
from lowerconv.torch.layers import FixedBatchNorm2d
from lowerconv.torch.network import TorchNetwork, array_of
from lowerconv.torch.registry import UnsupportedError
from lowerconv.torch.structure import Structure

Arrays = tuple[np.ndarray, ...]
Tensors = list[torch.Tensor]


class Latest(NamedTuple):
    """A run in training: its number, its program, and buffers as they were before it."""

    number: int
    program: Program
    before: list[np.ndarray]


SAMPLES = 16  # of the numbers of each parameter, at the least where it has as many

# These look at every parameter before every call: loops in C, not in Python.
_version = attrgetter("_version")
_address, _items = torch.Tensor.data_ptr, torch.Tensor.numel
_contiguous = torch.Tensor.is_contiguous


class Runner:
    """One trace of a module, and the networks that compute it.

    Attributes
    ----------
    exported : Exported
    leaves : list of str
        Parameters and buffers.
    runs : int
        Of the network in training: which run its memory is of.
    """

    def __init__(self, exported: Exported, structure: Structure) -> None:
        self.exported, self.structure = exported, structure
        self.leaves = sorted(set(exported.leaves.values()))
        self._kept = [structure.names[name] for name in self.leaves]
        self._kinds = _kinds(self._tensors())
        self._layout: Any = None
        self._samples: list[np.ndarray] = []
        self._sampled_of: Any = None  # the layout
        self._frozen: TorchNetwork | None = None
        self._frozen_of: Any = None  # the layout and the versions
        self._inference = Execution()
        self._network: TorchNetwork | None = None
        self._bound_to: Any = None  # the layout
        self._strided: list[tuple[np.ndarray, int]] = []
        self._counters: list[np.ndarray] = []
        self._updated: list[tuple[np.ndarray, int]] = []
        self._execution = Execution()
        self._fixed: dict[tuple[bool, ...], list[int]] = {}
        self._steps: dict[tuple[bool, ...], Step] = {}
        self._gradients: tuple[Program, Any, Gradients] | None = None  # the latest
        self._lent: dict[str, LentArray] = {}
        self._checked: set[Any] = set()
        self._read: list[int] = []
        self._changed: list[int] = []
        self.runs = 0

    def check(self, args: Sequence[torch.Tensor]) -> None:
        """Raise UnsupportedError where a network cannot be recorded for these shapes."""
        key = tuple((tuple(a.shape), a.dtype) for a in args)
        if key in self._checked:
            return
        for dtype in {a.dtype for a in self._tensors()}:
            if dtype in (torch.bfloat16, torch.float16) or dtype.is_complex:
                raise UnsupportedError(f"parameters of {dtype}")
        shapes = tuple(tuple(a.shape) for a in args)
        dtypes = tuple(torch.empty((), dtype=a.dtype).numpy().dtype for a in args)
        graph = Graph(self._trainable(), shapes, dtypes, True)
        for node in graph.nodes:
            layer, floats = node.layer, node.result.dtype.kind == "f"
            if floats and isinstance(layer, Computed) and layer.gradient is None:
                raise UnsupportedError(f"{node.name}: {layer.name} has no gradient")
        written = {
            name
            for layer, _, name in self._trainable().buffers_of
            if not isinstance(layer, FixedBatchNorm2d)
        }
        changed = written | {*self.exported.counted, *self.exported.updated.values()}
        self._read = [i for i, name in enumerate(self.leaves) if name not in changed]
        self._changed = [i for i, name in enumerate(self.leaves) if name in changed]
        self._checked.add(key)

    # --- the parameters and buffers of the module ---

    def _tensors(self) -> Tensors:
        return [kept[name] for kept, name in self._kept]

    def tensors(self) -> Tensors | None:
        """Return the parameters and buffers as they are now; None where the trace is of others."""
        try:
            tensors = self._tensors()
            layout = [[*map(look, tensors)] for look in (_address, _items, _contiguous)]
        except (KeyError, TypeError):  # one was deleted, or is None now
            return None
        for kept, name, tensor, version in self.exported.watched:
            same = kept.get(name) is tensor
            if not same or (tensor is not None and tensor._version != version):
                return None
        if layout != self._layout:
            if _kinds(tensors) != self._kinds:
                return None
            self._layout = layout
        return tensors

    def read(self, tensors: Tensors) -> Tensors:
        """Return those that no step in training writes to."""
        return [tensors[i] for i in self._read]

    def versions(self, tensors: Tensors) -> Any:
        """Return what tells whether a parameter or buffer has changed.

        Changes of ``parameter.data`` in place, which averages of weights are often made by, have no
        version: some numbers of each tensor are looked at, too.
        """
        if self._sampled_of is not self._layout:
            self._samples = [_some(t) for t in tensors if t.is_floating_point()]
            self._sampled_of = self._layout
        numbers = np.concatenate(self._samples).tobytes() if self._samples else b""
        return self._layout, [*map(_version, tensors)], numbers

    def versions_read(self, tensors: Tensors) -> Any:
        """Return the same of those that no step in training writes to."""
        return [tensors[i]._version for i in self._read]

    @property
    def literal(self) -> list[Any]:
        """Return the outputs: numbers of results, or what is no tensor."""
        network = self._network if self.exported.trains else self._frozen
        assert network is not None  # it has run
        return network.literal

    def fixed(self, needs: tuple[bool, ...]) -> list[int]:
        """Return the results that have no gradient, given what inputs and parameters need one."""
        found = self._fixed.get(needs)
        if found is None:
            inputs = [name for name, _ in self.exported.inputs]
            names = [*inputs, *(self.leaves[i] for i in self._read)]
            asked = {name for name, need in zip(names, needs, strict=True) if need}
            pairs = zip(self.literal, self.exported.sources, strict=True)
            of = [(what, asked & sources) for (kind, what), sources in pairs if kind == "result"]
            moving = {place for place, sources in of if sources}
            found = self._fixed[needs] = sorted({place for place, _ in of} - moving)
        return found

    # --- answers ---

    def infer(self, arrays: Arrays, versions: Any) -> list[torch.Tensor]:
        """Return the results by parameters as they are now, which kernels keep packed."""
        if self._frozen is None or versions != self._frozen_of:
            self._frozen = TorchNetwork(self.exported, self.structure.tensor, True)
            self._inference, self._frozen_of = Execution(), versions
        program = program_of(self._frozen, self._inference, arrays, False, False)
        return _copied(program.forward(arrays, INFERENCE))

    # --- training ---

    def _trainable(self) -> TorchNetwork:
        if self._network is None:
            self._network = TorchNetwork(self.exported, self.structure.tensor, False)
        return self._network

    def _program(
        self, tensors: Tensors, arrays: Arrays, input_grad: bool | tuple[bool, ...]
    ) -> Program:
        """Return the program for arrays, with parameters that lie where the module's do."""
        network = self._trainable()
        program = program_of(network, self._execution, arrays, True, input_grad)
        if self._bound_to is not self._layout:
            self._bind(network, tensors)
        for array, place in self._strided:
            array[...] = tensors[place].detach().numpy()
        return program

    def _bind(self, network: TorchNetwork, tensors: Tensors) -> None:
        self._bound_to = None  # whatever interrupts it
        arrays = {}
        self._strided, self._counters = [], []
        for place, (name, tensor) in enumerate(zip(self.leaves, tensors, strict=True)):
            arrays[name] = array_of(tensor)
            if name in self.exported.counted:
                times = self.exported.counted.count(name)
                self._counters += [arrays[name].reshape(1)] * times
            elif not tensor.is_contiguous():
                if name in self.exported.updated.values():
                    raise UnsupportedError(f"{name!r} is not contiguous")
                self._strided.append((arrays[name], place))
        for parameter, name in network.bound:
            parameter.data = arrays[name].reshape(parameter.data.shape)
        for layer, attribute, name in network.buffers_of:
            setattr(layer, attribute, arrays[name])
        self._updated = [(arrays[name], place) for name, place in network.updates]
        self._bound_to = self._layout

    def _returned(self) -> int:
        """Return how many results are the module's, before those that buffers become."""
        return 1 + max(what for kind, what in self._trainable().literal if kind == "result")

    def step(self, seed: int, input_grad: tuple[bool, ...]) -> Step:
        """Return a step in training, which is the same object as before where all is the same."""
        if seed:
            return Step(training=True, seed=seed, input_grad=input_grad)
        found = self._steps.get(input_grad)
        if found is None:
            found = self._steps[input_grad] = Step(training=True, input_grad=input_grad)
        return found

    def train(
        self, tensors: Tensors, arrays: Arrays, step: Step
    ) -> tuple[list[torch.Tensor], Latest]:
        """Return the results of a step in training, and update what the module counts."""
        program = self._program(tensors, arrays, step.input_grad)
        before = [array.copy() for array, _ in self._updated]
        self.runs += 1
        results = _copied(program.forward(arrays, step))
        for array, place in self._updated:
            array[...] = results[place].numpy()
        for counter in self._counters:
            counter[0] += 1
        if self._changed:  # behind torch's back
            torch.autograd.graph.increment_version([tensors[i] for i in self._changed])
        del results[self._returned() :]
        return results, Latest(self.runs, program, before)

    def gradients(
        self,
        latest: Latest | None,
        tensors: Tensors,
        arrays: Arrays,
        step: Step,
        dys: Sequence[torch.Tensor | None],
        wanted: tuple[bool, ...],
    ) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
        """Return the gradients of the inputs and of the parameters that are read.

        What the latest run has left is used where it is that one; else it is computed again.
        """
        fresh = latest is not None and latest.number == self.runs
        if latest is not None and fresh and self._bound_to is self._layout:
            program = latest.program
        else:
            program, fresh = self._program(tensors, arrays, step.input_grad), False
        if not fresh or program.arena.user is not program:
            self._again(program, arrays, step, latest.before if latest else [])
        kept = self._gradients
        if kept is None or kept[0] is not program or kept[1] != wanted:
            shapes = [
                (self.leaves[i], tuple(tensors[i].shape) if asked else None)
                for i, asked in zip(self._read, wanted, strict=True)
            ]
            made = Gradients(self._trainable(), program, shapes, self._lent)
            kept = self._gradients = program, wanted, made
        gradients = kept[2]
        gradients.place()
        given = tuple(
            np.zeros(r.shape, r.dtype) if dy is None else array_of(dy)
            for dy, r in zip_longest(dys, program.results)  # and what buffers become
        )
        program.backward(given)
        dxs = [None if d is None else torch.from_numpy(d.array).clone() for d in program.dxs]
        return dxs, gradients.lend()

    def _again(
        self, program: Program, arrays: Arrays, step: Step, before: list[np.ndarray]
    ) -> None:
        """Run forward once more, with what it changed as it was before, and is afterwards."""
        network = self._trainable()
        changed = [getattr(layer, name) for layer, name, _ in network.buffers_of]
        changed += [array for array, _ in self._updated]
        kept = [array.copy() for array in changed]
        try:
            for (array, _), old in zip(self._updated, before, strict=True):
                array[...] = old
            program.forward(arrays, step)
            self.runs += 1
        finally:
            for array, now in zip(changed, kept, strict=True):
                array[...] = now


def _kinds(tensors: Tensors) -> list[Any]:
    """Return what a trace depends on."""
    return [(t.shape, t.dtype, t.device) for t in tensors]


def _some(tensor: torch.Tensor) -> np.ndarray:
    """Return some of the numbers of a tensor, where they are."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    if not tensor.numel() or 1 + sum((n - 1) * step for n, step in pairs) != tensor.numel():
        return np.empty(0, np.float32)  # they do not follow each other, in whatever order
    flat = tensor.detach().as_strided((tensor.numel(),), (1,)).numpy()
    return flat[:: max(1, len(flat) // SAMPLES)]


def _copied(results: Any) -> list[torch.Tensor]:
    """Return tensors of the caller's own: the network's memory is written again."""
    arrays = results if isinstance(results, tuple) else (results,)
    return [torch.from_numpy(np.asarray(array)).clone() for array in arrays]
