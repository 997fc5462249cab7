"""Modules of PyTorch as networks of this library, for its own training: `Trainer`, ranks, MPI."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

import numpy as np
import torch

from lowerconv.nn.graph import Graph
from lowerconv.nn.module import Module
from lowerconv.torch.exported import Exported
from lowerconv.torch.network import Leaf, TorchNetwork, array_of
from lowerconv.torch.registry import UnsupportedError
from lowerconv.torch.structure import Structure

AGREES = 1e-3  # answers of both, beside the largest of them


def to_native(model: torch.nn.Module, example: torch.Tensor) -> NativeNetwork:
    """Return a network of this library with the layers and a copy of the weights of a module.

    It is trained as any other, by :class:`lowerconv.train.Trainer` on any number of ranks.  Its
    parameters have the names that `state_dict` has.  `write_back` gives the module what was learnt.

    Parameters
    ----------
    model : torch.nn.Module
        In training mode, on the CPU.  All its parameters are learnt.
    example : Tensor, (N, ...)
        What `model` is called with; batches of any other size are taken, too.

    Returns
    -------
    NativeNetwork

    Raises
    ------
    TypeError
        An argument is of another class.
    UnsupportedError
        The module cannot be converted; or the network would not be the same: parameters that are
        not learnt, that are read in several places, or something else computed in evaluation.

    Examples
    --------
    >>> network = lowerconv.torch.to_native(model, images)  # doctest: +SKIP
    >>> lowerconv.train.Trainer(network, data).fit()  # doctest: +SKIP
    >>> network.write_back()  # doctest: +SKIP
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: got {type(model).__name__}, expected a torch.nn.Module")
    if not isinstance(example, torch.Tensor) or not example.dim() or not example.numel():
        got = tuple(example.shape) if isinstance(example, torch.Tensor) else type(example).__name__
        raise TypeError(f"example: got {got}, expected a batch of images, a tensor (N, ...)")
    return NativeNetwork(model, example.detach())


class NativeNetwork(TorchNetwork):
    """What `to_native` returns.

    Parameters
    ----------
    model : torch.nn.Module
        In training.
    example : torch.Tensor, (N, C, H, W)
        An input; N may be another later.

    Attributes
    ----------
    model : torch.nn.Module
        Where the network comes from.
    """

    returns_all = False

    def __init__(self, model: torch.nn.Module, example: torch.Tensor) -> None:
        if not model.training:
            raise UnsupportedError("the module is in evaluation; expected training: model.train()")
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        if frozen:
            raise UnsupportedError(f"parameters that are not learnt: {', '.join(frozen)}")
        structure = Structure(model)
        structure.check_hooks()
        batch = example if len(example) > 1 else torch.cat([example, example])
        # One image alone would be taken for an extent that cannot be another.
        super().__init__(Exported(model, (batch,)), structure.tensor, False)
        self.model, self._example = model, example
        self._modes = [part.training for part in model.modules()]
        self._learnt = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._names: dict[str, str] = {}
        graph = Graph(self, tuple(batch.shape), array_of(batch).dtype, True)
        if self.literal != [("result", 0)] or len(graph.results) != 1:
            raise UnsupportedError("it returns something else than one tensor")
        self._check_batches(batch)
        self._take_over()
        self._check_answers(batch)

    def plain(self, operand: Any) -> Any:
        """Return a parameter as a value that is learnt, a buffer as an array."""
        if isinstance(operand, Leaf) and operand.name not in self._learnt:
            return operand.array
        return super().plain(operand)

    def forward(self, *values: Any, **_: Any) -> Any:
        """Record the nodes, by the layers that there are."""
        before = dict(self._layers)
        result = super().forward(*values)
        if self._names and len(self._layers) > len(before):
            self._layers = before
            raise UnsupportedError(f"other layers with inputs of shape {values[0].shape}")
        return result

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and its layers, under the names that the module's parts have."""
        yield prefix.rstrip("."), self
        for name, layer in self._layers.items():
            yield prefix + self._names.get(name, name), layer

    def _take_over(self) -> None:
        """Give the layers arrays of their own, and names."""
        owner = {id(parameter): name for parameter, name in self.bound}
        names = list(owner.values())
        several = sorted({name for name in names if names.count(name) > 1})
        if several:
            raise UnsupportedError(f"parameters that are read in several places: {several}")
        for name, layer in self._layers.items():
            own = layer.own_parameters()
            if not all(owner.get(id(parameter)) in self._learnt for parameter in own.values()):
                kind = type(layer).__name__
                raise UnsupportedError(f"{name}: a {kind} whose weights are no parameters")
            for first, parameter in list(own.items())[:1]:
                leaf = owner[id(parameter)]
                prefix, _, last = leaf.rpartition(".")
                alike = last == first and prefix and prefix not in self._names.values()
                self._names[name] = prefix if alike else leaf
        for parameter, _ in self.bound:
            parameter.data = parameter.data.copy()
        for layer, attribute, _ in self.buffers_of:
            setattr(layer, attribute, getattr(layer, attribute).copy())

    def _check_batches(self, batch: torch.Tensor) -> None:
        """Raise UnsupportedError unless batches of any size are computed in the same way."""
        for count in (3, 7):
            shape = (count, *batch.shape[1:])
            other = torch.empty(shape, dtype=batch.dtype, device="meta")
            Graph(self, shape, array_of(batch).dtype, True)  # errors name operators
            if not self.exported.accepts((other,)):
                raise UnsupportedError("it does something else with a batch of another size")

    def _check_answers(self, batch: torch.Tensor) -> None:
        """Raise UnsupportedError where the module does something else in evaluation."""
        # Of images at random: those of an example may be all zeros.
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(batch.shape, generator=draw, dtype=batch.dtype)
        modes = [(part, part.training) for part in self.model.modules()]
        try:
            self.model.eval()
            with torch.no_grad():
                expected = self.model(images)
        finally:
            for part, mode in modes:
                part.training = mode
        found = self(array_of(images))
        different = inf
        if isinstance(expected, torch.Tensor) and expected.shape == found.shape:
            scale = max(1.0, float(expected.abs().max()))
            different = float((torch.from_numpy(found) - expected).abs().max()) / scale
        if not different <= AGREES:
            raise UnsupportedError(
                "in evaluation it does something else than in training, beside dropout and the "
                "statistics of batch norm"
            )

    def check_input(self, *xs: np.ndarray) -> None:
        """Raise TypeError or ValueError where an array is not what the module was traced with."""
        expected = array_of(self._example)
        if len(xs) != 1:
            raise TypeError(f"x: got {len(xs)} arrays, expected one")
        (x,) = xs
        if x.dtype != expected.dtype:
            raise TypeError(f"x: got dtype {x.dtype}, expected {expected.dtype}")
        if x.ndim != expected.ndim:
            raise ValueError(f"x: got shape {x.shape}, expected one like {expected.shape}")
        shape = (max(2, len(x)), *x.shape[1:])  # traces tell batches of one apart
        kind = self._example.dtype
        if not self.exported.accepts((torch.empty(shape, dtype=kind, device="meta"),)):
            raise ValueError(
                f"x: got shape {x.shape}, with which the module does something else than with "
                f"{expected.shape}"
            )

    def write_back(self) -> torch.nn.Module:
        """Write parameters and running statistics into the module that this came from.

        Returns
        -------
        torch.nn.Module
            `model`.
        """
        arrays = [(name, parameter.data) for parameter, name in self.bound]
        arrays += [(name, getattr(layer, own)) for layer, own, name in self.buffers_of]
        with torch.no_grad():
            for name, array in arrays:
                tensor = self._tensors(name)
                tensor.copy_(torch.from_numpy(np.asarray(array)).reshape(tensor.shape))
        return self.model

    # --- copies: traced anew, with what was learnt ---

    def __reduce__(self) -> Any:
        learnt = {name: p.data.copy() for name, p in self.parameters().items()}
        state = learnt | {name: array.copy() for name, array in self.buffers().items()}
        return _anew, (self.model, self._modes, self._example), state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load(state)


def _anew(model: torch.nn.Module, modes: list[bool], example: torch.Tensor) -> NativeNetwork:
    """Return the network of a module, which may be in evaluation meanwhile."""
    parts = list(model.modules())
    now = [part.training for part in parts]
    try:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode
        return NativeNetwork(model, example)
    finally:
        for part, mode in zip(parts, now, strict=True):
            part.training = mode
