"""What every optimizer is: one flat array of parameters, one of gradients, and a step."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np

from lowerconv.checks import integer, plain_array
from lowerconv.codegen.compiled import internal
from lowerconv.codegen.ranges import share
from lowerconv.conv.arrays import contiguous, overlap
from lowerconv.copying import Reference
from lowerconv.nn.module import Module, Parameter
from lowerconv.nn.optim.loss_scale import LossScale
from lowerconv.nn.sharing import use_gradients
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.threads import run


class Weights(NamedTuple):
    """Items ``begin:end`` of flat arrays of parameters, as kernels update them."""

    data: np.ndarray
    grad: np.ndarray
    bounds: np.ndarray  # of each parameter
    decays: np.ndarray  # of each parameter
    begin: int
    end: int


class UpdateRounding(Protocol):
    """Rounds what a step reads and writes, as fixed point does."""

    def round_gradients(self, team: TeamHandle, weights: Weights, update: int) -> None:
        """Round the gradients of a range in place, before an update of this number.

        Parameters
        ----------
        team : TeamHandle
        weights : Weights
        update : int
        """

    def round_weights(self, team: TeamHandle, weights: Weights, update: int) -> None:
        """Round the weights of a range in place, after it.

        Parameters
        ----------
        team : TeamHandle
        weights : Weights
        update : int
        """


@internal
def share_of(weights, worker, workers):
    """Return a worker's share of the range."""
    first, last = share(weights.end - weights.begin, worker, workers)
    return weights.begin + first, weights.begin + last


class Optimizer:
    """All parameters of a network in one flat array, all gradients in another.

    One loop updates them, and one message sums the gradients of all ranks::

        data   | 0.weight .......... | 0.bias | 3.weight ..... | 3.bias |
               0                 bounds[1]  bounds[2]      bounds[3]  bounds[4]

    A network and its optimizer are copied and pickled together, such as with
    ``copy.deepcopy((network, optimizer))``.

    Parameters
    ----------
    network : Module
        Whose parameters are of one dtype.  They stay the optimizer's until another one is made for
        any of them.
    lr, weight_decay : float
    decay_biases : bool
        Whether to decay parameters of one dimension too: biases, and the scales and shifts of
        normalisation. They are few, and pulling them to zero gains nothing (Goyal et al.,
        "Accurate, large minibatch SGD" (2017), section 5.1).

    Attributes
    ----------
    data, grad : ndarray, (parameters,)
        `Parameter.data` and `Parameter.grad` of the network are views of them.
    bounds : ndarray, (number of parameters + 1,), int64
        Where each parameter begins, and where the last one ends.
    updates : int
        How many steps have been made.
    whole : bool
        Whether a step has to see all gradients at once; else it may come in ranges.
    rounding : UpdateRounding or None
        What rounds gradients before, and weights after an update.
    scaling : LossScale or None
        The scale of the loss that gradients are of; see `scale_loss`.

    Raises
    ------
    ValueError
        The network has no parameters, or of several dtypes, or some that share memory.
    """

    whole = False
    rounding: UpdateRounding | None = None
    scaling: LossScale | None = None

    def __init__(
        self, network: Module, lr: float, weight_decay: float = 0.0, decay_biases: bool = False
    ) -> None:
        check_range("lr", lr)
        check_range("weight_decay", weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        parameters = network.parameters()
        _check_parameters(parameters)
        self._network = Reference(network)
        self._parameters = {name: Reference(p) for name, p in parameters.items()}
        layers = [module for _, module in network.modules() if module.own_parameters()]
        self._layers = [Reference(module) for module in layers]
        self._shapes = {name: p.data.shape for name, p in parameters.items()}
        self.bounds = np.cumsum([0, *(p.data.size for p in parameters.values())])
        self.decayed = np.array([decay_biases or len(shape) > 1 for shape in self._shapes.values()])
        self.data = np.concatenate([p.data.reshape(-1) for p in parameters.values()])
        self.grad = np.zeros_like(self.data)
        self.updates = 0
        self.attach(self.data, self.grad)

    def attach(self, data: np.ndarray, grad: np.ndarray) -> None:
        """Have the network compute with given arrays.

        These are `data` and `grad` of the optimizer, unless it updates weights that the network
        shall not see yet.

        Parameters
        ----------
        data, grad : ndarray, (parameters,)
            Of the dtype of the optimizer's own.
        """
        datas, grads = self.by_name(data), self.by_name(grad)
        self._views = []
        for name, parameter in self._living().items():
            parameter.data, parameter.grad = datas[name], grads[name]
            self._views.append((name, self._parameters[name].weak, datas[name], grads[name]))
        self._own = self.data, self.grad
        self._seen = -1  # nothing of the parameter lists

    def check(self) -> None:
        """Raise RuntimeError unless the network computes with the arrays of this optimizer.

        `begin_step` calls it each time: it takes microseconds.
        """
        if self.data is not self._own[0] or self.grad is not self._own[1]:
            raise RuntimeError(
                "optimizer: its data or grad is not the array that it was made with, of which the "
                "network has views; write into that: optimizer.grad[:] = ..."
            )
        if self._seen != Module._parameter_lists:
            self._check_list()
        for name, reference, data, grad in self._views:
            parameter = reference()
            if parameter is None:
                self._living()
            elif parameter.data is not data or parameter.grad is not grad:
                _check_view(name, "data", parameter.data, data)
                _check_view(name, "grad", parameter.grad, grad)

    def _check_list(self) -> None:
        """Raise RuntimeError where the network has other parameters than it had."""
        changes, network = Module._parameter_lists, self._network()
        if network is not None:
            mine, theirs = self._parameters, network.parameters()
            for name in mine | theirs:
                if name not in mine or name not in theirs or mine[name].weak() is not theirs[name]:
                    raise RuntimeError(
                        f"optimizer: parameter {name!r} of its network was added, removed or "
                        f"replaced since the optimizer was made; {_ANOTHER}"
                    )
        self._seen = changes

    def _living(self) -> dict[str, Parameter]:
        """Return the parameters by name."""
        found = {}
        for name, reference in self._parameters.items():
            parameter = reference.weak()
            if parameter is None:
                raise RuntimeError(
                    f"optimizer: a copy whose network, with parameter {name!r}, does not exist; a "
                    "network and its optimizer are copied and pickled together, as in "
                    "copy.deepcopy((network, optimizer))"
                )
            found[name] = parameter
        return found

    # --- copies: parameters go along, and the flat arrays are made of them anew ---

    def __copy__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} can have no shallow copy, which would update the same "
            "parameters: copy the network along, copy.deepcopy((network, optimizer))"
        )

    def __getstate__(self) -> dict[str, Any]:
        self.check()
        kept = dict(self.__dict__)
        for name in ("data", "grad", "_views", "_own", "_seen"):
            del kept[name]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        parameters = self._living().values()
        self.data = np.concatenate([p.data.reshape(-1) for p in parameters])
        self.grad = np.concatenate([p.grad.reshape(-1) for p in parameters])
        self.attach(self.data, self.grad)

    # --- steps ---

    def scale_loss(self, scaling: LossScale) -> None:
        """Take gradients of a loss that is scaled, and leave out steps where one overflows.

        A step then has to see all of them at once.

        Parameters
        ----------
        scaling : LossScale
            Whose `scale` the gradients of the loss have to be given.
        """
        self.scaling, self.whole = scaling, True

    def by_name(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return views of an array, one for each parameter, in its shape.

        Parameters
        ----------
        flat : ndarray, (parameters,)
            As long as `data`.

        Returns
        -------
        dict of str to ndarray
        """
        return {
            name: flat[begin:end].reshape(shape)
            for (name, shape), begin, end in zip(
                self._shapes.items(), self.bounds[:-1], self.bounds[1:], strict=True
            )
        }

    def state(self) -> dict[str, np.ndarray]:
        """Return what is kept from one step to the next.

        With `data`, `updates` and `lr` it decides all steps to come.

        Returns
        -------
        dict of str to ndarray, (parameters,)
        """
        return {}

    def step(self) -> None:
        """Update the parameters from their gradients.

        Raises
        ------
        RuntimeError
            Another thread has trained the network since this one computed the gradients, or is
            inside a step of it.
        """
        self.check()
        layers = (reference() for reference in self._layers)
        use_gradients([layer for layer in layers if layer is not None])
        self.begin_step()
        self.update(0, self.data.size)

    def begin_step(self) -> None:
        """Begin a step that is made of ranges, each updated once.

        Raises
        ------
        RuntimeError
            The network does not compute with the arrays of this optimizer any more: its parameters
            were replaced, or another optimizer was made. Nothing has been changed.
        """
        self.check()
        self.updates += 1

    def update(
        self, begin: int, end: int, grad: np.ndarray | None = None, team: TeamHandle | None = None
    ) -> None:
        """Update the items of a range of `data` from their gradients.

        Parameters
        ----------
        begin, end : int
            The range of items, without `end`.
        grad : ndarray, (parameters,), optional
            Of which the range is read; by default the optimizer's `grad`.
        team : TeamHandle, optional
            The threads that compute; by default all, as soon as no other Python thread has them.

        Raises
        ------
        TypeError, ValueError
            A range or gradients that do not fit `data`; nothing has been written.
        """
        if not 0 <= integer(begin, "begin", 0) <= integer(end, "end", 0) <= self.data.size:
            raise ValueError(
                f"end: got {begin} to {end}, expected a range within 0 to {self.data.size}"
            )
        grad = self.grad if grad is None else self._check_grad(grad)
        if self.scaling is not None:
            if (begin, end) != (0, self.data.size):
                raise ValueError(f"end: got {begin} to {end} of a scaled loss, expected all")
            if not self.scaling.unscale(grad, team):
                self.updates -= 1  # it is none
                return
        weights = Weights(self.data, grad, self.bounds, self._decays(), begin, end)
        if team is not None:
            self._update_rounded(team, weights)
        else:
            run(self._update_rounded, weights)

    def _update_rounded(self, team: TeamHandle, weights: Weights) -> None:
        if self.rounding is not None:
            self.rounding.round_gradients(team, weights, self.updates)
        self._update(team, weights)
        if self.rounding is not None:
            self.rounding.round_weights(team, weights, self.updates)

    def _check_grad(self, grad: np.ndarray) -> np.ndarray:
        """Return gradients as kernels take them, which read as many as there are parameters."""
        plain_array(grad, "grad")
        if grad.dtype != self.data.dtype:
            raise TypeError(f"grad: got dtype {grad.dtype}, expected {self.data.dtype}")
        if grad.shape != self.data.shape:
            raise ValueError(f"grad: got shape {grad.shape}, expected {self.data.shape}")
        return contiguous(grad, "grad")

    def _update(self, team: TeamHandle, weights: Weights) -> None:
        raise NotImplementedError

    def _decays(self) -> np.ndarray:
        """Return the weight decay of each parameter."""
        return (self.decayed * self.weight_decay).astype(self.data.dtype)


_ANOTHER = "make another optimizer"


def _check_parameters(parameters: dict[str, Parameter]) -> None:
    """Raise ValueError unless parameters can be the parts of one array."""
    if not parameters:
        raise ValueError("network: got one without parameters, expected some to update")
    (first, one), *others = parameters.items()
    for name, parameter in others:
        if parameter.data.dtype != one.data.dtype:
            raise ValueError(
                f"network: parameter {name!r} is {parameter.data.dtype} and {first!r} is "
                f"{one.data.dtype}, expected one dtype"
            )
    placed = sorted(parameters.items(), key=lambda item: item[1].data.__array_interface__["data"])
    for (name, parameter), (other, following) in pairwise(placed):
        if overlap(parameter.data, following.data):
            raise ValueError(
                f"network: parameters {name!r} and {other!r} share memory, expected arrays of "
                "their own"
            )


def _check_view(name: str, which: str, found: Any, expected: np.ndarray) -> None:
    """Raise RuntimeError unless an array of a parameter is the one expected, or a view of it."""
    same = isinstance(found, np.ndarray) and (
        found.__array_interface__ == expected.__array_interface__
    )
    if not same:
        raise RuntimeError(
            f"optimizer: the {which} of parameter {name!r} is not the optimizer's array any more: "
            "it was replaced, or another optimizer was made for it. To set values, write into the "
            f"array, parameter.{which}[...] = values; else {_ANOTHER}"
        )


def check_range(name: str, value: float, below: float = inf) -> None:
    """Raise ValueError unless ``0 <= value < below``."""
    if not 0 <= value < below:
        raise ValueError(f"{name}: got {value}, expected 0 <= {name} < {below:g}")
