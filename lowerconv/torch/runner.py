"""Runs of a traced module: frozen for answers, and in training with gradients for autograd."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
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
from lowerconv.torch.leaves import Leaves, Tensors
from lowerconv.torch.network import TorchNetwork, array_of
from lowerconv.torch.registry import UnsupportedError
from lowerconv.torch.structure import Structure

Arrays = tuple[np.ndarray, ...]


class Latest(NamedTuple):
    """A run in training: its number, its program, and buffers as they were before it."""

    number: int
    program: Program
    before: list[np.ndarray]


class Binding(NamedTuple):
    """How the network in training has the module's memory."""

    layout: Any  # `Leaves.layout`, for which it is right
    strided: list[tuple[np.ndarray, int]]  # copies, and the places of what they are of
    counters: list[np.ndarray]  # buffers that count steps
    updated: list[tuple[np.ndarray, int]]  # buffers, and the numbers of the results they become


class Runner:
    """One trace of a module, and the networks that compute it.

    Attributes
    ----------
    exported : Exported
    leaves : Leaves
    runs : int
        Of the network in training: which run its memory is of.
    """

    def __init__(self, exported: Exported, structure: Structure) -> None:
        self.exported, self.structure = exported, structure
        self.leaves = Leaves(exported, structure)
        self._frozen: TorchNetwork | None = None
        self._frozen_of: Any = None  # the layout and the versions
        self._inference = Execution()
        self._network: TorchNetwork | None = None
        self._binding: Binding | None = None
        self._execution = Execution()
        self._fixed: dict[tuple[bool, ...], list[int]] = {}
        self._steps: dict[tuple[bool, ...], Step] = {}
        self._gradients: tuple[Program, Any, Gradients] | None = None  # the latest
        self._lent: dict[str, LentArray] = {}
        self._checked: set[Any] = set()
        self.runs = 0

    def check(self, args: Sequence[torch.Tensor]) -> None:
        """Raise UnsupportedError where a network cannot be recorded for these shapes."""
        key = tuple((tuple(a.shape), a.dtype) for a in args)
        if key in self._checked:
            return
        for dtype in {a.dtype for a in self.leaves.tensors()}:
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
        self.leaves.set_changed(written | {*self.exported.counted, *self.exported.updated.values()})
        self._checked.add(key)

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
            names = [*inputs, *(self.leaves.names[i] for i in self.leaves.read)]
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
    ) -> tuple[Program, Binding]:
        """Return the program for arrays, with parameters that lie where the module's do."""
        network = self._trainable()
        program = program_of(network, self._execution, arrays, True, input_grad)
        binding = self._binding
        if binding is None or binding.layout is not self.leaves.layout:
            self._binding = None  # whatever interrupts it
            binding = self._binding = self._bind(network, tensors)
        for array, place in binding.strided:
            array[...] = tensors[place].detach().numpy()
        return program, binding

    def _bind(self, network: TorchNetwork, tensors: Tensors) -> Binding:
        """Have the parameters and buffers of a network lie where the module's do."""
        arrays: dict[str, np.ndarray] = {}
        strided, counters = [], []
        for place, (name, tensor) in enumerate(zip(self.leaves.names, tensors, strict=True)):
            arrays[name] = array_of(tensor)
            if name in self.exported.counted:
                times = self.exported.counted.count(name)
                counters += [arrays[name].reshape(1)] * times
            elif not tensor.is_contiguous():
                if name in self.exported.updated.values():
                    raise UnsupportedError(f"{name!r} is not contiguous")
                strided.append((arrays[name], place))
        for parameter, name in network.bound:
            parameter.data = arrays[name].reshape(parameter.data.shape)
        for layer, attribute, name in network.buffers_of:
            setattr(layer, attribute, arrays[name])
        updated = [(arrays[name], place) for name, place in network.updates]
        return Binding(self.leaves.layout, strided, counters, updated)

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
        program, binding = self._program(tensors, arrays, step.input_grad)
        before = [array.copy() for array, _ in binding.updated]
        self.runs += 1
        results = _copied(program.forward(arrays, step))
        for array, place in binding.updated:
            array[...] = results[place].numpy()
        for counter in binding.counters:
            counter[0] += 1
        if self.leaves.changed:  # behind torch's back
            torch.autograd.graph.increment_version([tensors[i] for i in self.leaves.changed])
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
        binding = self._binding
        if latest is not None and fresh and binding and binding.layout is self.leaves.layout:
            program = latest.program
        else:
            program, binding = self._program(tensors, arrays, step.input_grad)
            fresh = False
        if not fresh or program.arena.user is not program:
            updated = [array for array, _ in binding.updated]
            self._again(program, arrays, step, updated, latest.before if latest else [])
        kept = self._gradients
        if kept is None or kept[0] is not program or kept[1] != wanted:
            shapes = [
                (self.leaves.names[i], tuple(tensors[i].shape) if asked else None)
                for i, asked in zip(self.leaves.read, wanted, strict=True)
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
        self,
        program: Program,
        arrays: Arrays,
        step: Step,
        updated: list[np.ndarray],
        before: list[np.ndarray],
    ) -> None:
        """Run forward once more, with what it changed as it was before, and is afterwards."""
        network = self._trainable()
        changed = [getattr(layer, name) for layer, name, _ in network.buffers_of] + updated
        kept = [array.copy() for array in changed]
        try:
            for array, old in zip(updated, before, strict=True):
                array[...] = old
            program.forward(arrays, step)
            self.runs += 1
        finally:
            for array, now in zip(changed, kept, strict=True):
                array[...] = now


def _copied(results: Any) -> list[torch.Tensor]:
    """Return tensors of the caller's own: the network's memory is written again."""
    arrays = results if isinstance(results, tuple) else (results,)
    return [torch.from_numpy(np.asarray(array)).clone() for array in arrays]
