"""Runs of a traced module: frozen for answers, and in training with gradients for autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lowerconv.nn.computed import Computed
from lowerconv.nn.graph import Graph
from lowerconv.nn.program import Program, program_of
from lowerconv.nn.sharing import Execution
from lowerconv.nn.step import INFERENCE, Step
from lowerconv.torch.exported import Exported
from lowerconv.torch.layers import FixedBatchNorm2d
from lowerconv.torch.network import TorchNetwork, array_of
from lowerconv.torch.registry import UnsupportedError
from lowerconv.torch.structure import Structure

Arrays = tuple[np.ndarray, ...]
Versions = tuple[list[int], list[int]]


class Runner:
    """One trace of a module, and the networks that compute it.

    Attributes
    ----------
    exported : Exported
    leaves, read : list of str
        Parameters and buffers; those that no step in training writes to.
    runs : int
        Of the network in training: which run its memory is of.
    """

    def __init__(self, exported: Exported, structure: Structure) -> None:
        self.exported, self.structure = exported, structure
        self._frozen: TorchNetwork | None = None
        self._versions: Any = None
        self._answering = Execution()
        self._network: TorchNetwork | None = None
        self._execution = Execution()
        self._places: dict[str, int] = {}
        self._checked: set[Any] = set()
        self.runs = 0
        self.read: list[str] = []
        self.leaves = sorted(set(exported.leaves.values()))
        self._kept = [structure.names[name] for name in self.leaves]

    def check(self, args: Sequence[torch.Tensor]) -> None:
        """Raise UnsupportedError where a network cannot be recorded for these shapes."""
        key = tuple((tuple(a.shape), a.dtype) for a in args)
        if key in self._checked:
            return
        for dtype in {a.dtype for a in map(self.structure.tensor, self.leaves)}:
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
        self.read = [n for n in self.leaves if n not in written | {*self.exported.counted}]
        self._checked.add(key)

    # --- answers ---

    def versions(self) -> Versions:
        """Return what tells whether a parameter or buffer has changed."""
        tensors = [kept[name] for kept, name in self._kept]
        return [t.data_ptr() for t in tensors], [t._version for t in tensors]

    def answer(self, arrays: Arrays, versions: Versions) -> list[torch.Tensor]:
        """Return the results by parameters as they are now, which kernels keep packed."""
        if self._frozen is None or versions != self._versions:
            self._frozen = TorchNetwork(self.exported, self.structure.tensor, True)
            self._answering, self._versions = Execution(), versions
        program = program_of(self._frozen, self._answering, arrays, False, False)
        return _copied(program.forward(arrays, INFERENCE))

    # --- training ---

    def _trainable(self) -> TorchNetwork:
        if self._network is None:
            self._network = TorchNetwork(self.exported, self.structure.tensor, False)
        return self._network

    def _program(self, arrays: Arrays, input_grad: bool | tuple[bool, ...]) -> Program:
        """Return the program for arrays, with parameters that lie where the module's do."""
        network = self._trainable()
        program = program_of(network, self._execution, arrays, True, input_grad)
        for parameter, name in network.bound:
            tensor = self.structure.tensor(name)
            if self._moved(name, tensor):
                parameter.data = array_of(tensor).reshape(parameter.data.shape)
        for layer, attribute, name in network.buffers_of:
            tensor = self.structure.tensor(name)
            if self._moved(name, tensor):
                setattr(layer, attribute, array_of(tensor))
        for name in self.leaves:
            self._places[name] = self.structure.tensor(name).data_ptr()
        return program

    def _moved(self, name: str, tensor: torch.Tensor) -> bool:
        return self._places.get(name) != tensor.data_ptr() or not tensor.is_contiguous()

    def train(self, arrays: Arrays, step: Step) -> list[torch.Tensor]:
        """Return the results of a step in training, and update what the module counts."""
        program = self._program(arrays, step.input_grad)
        self.runs += 1
        results = _copied(program.forward(arrays, step))
        self._count()
        return results

    def _count(self) -> None:
        network = self._trainable()
        changed = [self.structure.tensor(n) for n in self.exported.counted]
        if changed:
            with torch.no_grad():
                torch._foreach_add_(changed, 1)
        if network.buffers_of and self.exported.trains:  # they were written behind torch's back
            names = {*self.leaves} - {*self.read} - {*self.exported.counted}
            written = [self.structure.tensor(name) for name in sorted(names)]
            torch.autograd.graph.increment_version(written)

    def gradients(
        self,
        run: int,
        arrays: Arrays,
        step: Step,
        dys: Sequence[torch.Tensor | None],
        wanted: Sequence[str],
    ) -> tuple[list[torch.Tensor | None], dict[str, torch.Tensor]]:
        """Return the gradients of the inputs and of parameters.

        What the run of that number has left is used where it is there; else it is computed again.
        """
        program = self._program(arrays, step.input_grad)
        if run != self.runs or program.arena.user is not program:
            self._again(program, arrays, step)
        network = self._trainable()
        live = {
            id(parameter)
            for layer in program.learners
            if layer not in program.unreached
            for parameter in layer.own_parameters().values()
        }
        made: dict[str, torch.Tensor] = {}
        more: list[tuple[str, np.ndarray]] = []
        for parameter, name in network.bound:
            if name not in wanted or id(parameter) not in live:
                continue
            if name in made:  # applied in several places
                parameter.grad = np.empty(parameter.data.shape, parameter.data.dtype)
                more.append((name, parameter.grad))
                continue
            tensor = self.structure.tensor(name)
            made[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
            parameter.grad = made[name].numpy().reshape(parameter.data.shape)
        given = tuple(
            np.zeros(r.shape, r.dtype) if dy is None else array_of(dy)
            for dy, r in zip(dys, program.results, strict=True)
        )
        program.backward(given)
        for name, part in more:
            made[name] += torch.from_numpy(part.reshape(made[name].shape))
        for parameter, _ in network.bound:  # autograd owns these now
            parameter.grad = np.zeros(parameter.data.shape, parameter.data.dtype)
        dxs = [None if d is None else torch.from_numpy(d.array).clone() for d in program.dxs]
        return dxs, made

    def _again(self, program: Program, arrays: Arrays, step: Step) -> None:
        """Run forward once more, with running statistics left as they are."""
        network = self._trainable()
        kept = [getattr(layer, name).copy() for layer, name, _ in network.buffers_of]
        program.forward(arrays, step)
        self.runs += 1
        for (layer, name, _), array in zip(network.buffers_of, kept, strict=True):
            getattr(layer, name)[...] = array


def _copied(results: Any) -> list[torch.Tensor]:
    """Return tensors of the caller's own: the network's memory is written again."""
    arrays = results if isinstance(results, tuple) else (results,)
    return [torch.from_numpy(np.asarray(array)).clone() for array in arrays]
