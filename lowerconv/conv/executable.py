"""What a plan runs: a convolution pass, decided, with everything that its calls need made once."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.kernel import Kernel
from lowerconv.conv.arrays import flat_images
from lowerconv.conv.base_schedule import BaseSchedule
from lowerconv.conv.records import Epilogue
from lowerconv.copying import not_copied
from lowerconv.ops.activate import activate_address, activate_constants
from lowerconv.ops.pointwise import AFFINE, FUNCTIONS, pointwise
from lowerconv.runtime.records import address_of
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch

Array = npt.NDArray[np.floating]


class Options(NamedTuple):
    """What a pass is planned for, beside its problem.

    Attributes
    ----------
    algorithm : str
        "auto" is decided by the plan.
    variant : str, optional
        Of an algorithm that has several, as tuning names them; default: the one of least cost.
    threads : int
        0 stands for those that kernels run on.
    bias : bool
        Whether a bias is added.
    activation : Activation, optional
        What is applied to results, after all additions.
    add : bool
        Whether results are added to what is there.
    constant : bool
        A promise that filters do not change between calls, so that they may be kept packed.
    single : bool
        Whether images come and go without the batch extent.
    """

    algorithm: str = "auto"
    variant: str | None = None
    threads: int = 0
    bias: bool = False
    activation: Activation | None = None
    add: bool = False
    constant: bool = False
    single: bool = False

    @property
    def relu(self) -> bool:
        """Whether the activation is ReLU, which all algorithms apply."""
        return self.activation == RELU


@not_copied("copy the ConvPlan that it is a part of")
class Executable:
    """A pass that can be run.

    Attributes
    ----------
    threads : int
        How many the team needs.
    pairs : bool
        Whether threads 2i and 2i + 1 work together.
    takes_slices : bool
        Whether images may be some channels of larger arrays.
    is_capturable : bool
        Whether a run, once filters are kept, does nothing but launch kernels.
    workspace_items : int
        Of the problem's dtype, for all threads together.
    kernels : list
        Emitted kernels, the one that most work is done in first; none where loops are numba's.
    """

    pairs = False
    takes_slices = False
    is_capturable = False
    workspace_items = 0

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.kernels: list[Kernel] = []

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute a pass.

        Parameters
        ----------
        team : TeamHandle
            Of at least `threads` threads.
        a, b : ndarray
            The operands of the pass, in the order of its function (``x, w``, ``dy, w``, ``dy, x``);
            C-contiguous, or channels of larger arrays where the executable `takes_slices`.
        bias : ndarray, (K,)
            Empty where there is none, and in gradients.
        out : ndarray
            The result.
        workspace : Scratch
            Of `workspace_items`; its contents are undefined.
        """
        raise NotImplementedError

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return the array that `run` takes for `b` from now on: packed filters, or `w` itself."""
        return w

    def packed_key(self) -> Hashable:
        """Return what decides the layout of `prepack`'s array; None where that is `w`."""
        return None

    def use_packed(self, kept: Array) -> None:
        """Use the array that `prepack` of another executable of the same `packed_key` returned."""

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {}


class RecordExecutable(Executable):
    """A pass of loops that read everything but the operands of a call from a record.

    Attributes
    ----------
    schedule : BaseSchedule
        The decisions that the record is made of.
    job : ndarray
        The record, or several: of the dtype of `runtime.records.record_dtype`.
    fields : ndarray of int64
        The same memory, as `runtime.launch.bind_operands` takes it.
    activation : Activation
        The kind that kernels are made for: that of the options, where they can apply it.
    arrays : list
        What has its address in the record.
    """

    takes_slices = True
    is_capturable = True

    def __init__(self, schedule: BaseSchedule, options: Options, job: np.ndarray) -> None:
        super().__init__(options.threads)
        self.schedule, self.job = schedule, job
        self.fields = job.view(np.int64)
        self.address = address_of(job)  # asked for at each call it costs a microsecond
        self.no_bias = np.empty(0, schedule.conv.dtype)
        self.arrays: list[np.ndarray] = []
        given = options.activation
        self.activation = given.kind if given and given.in_registers else RELU

    def with_activation(self, activation: Activation | None) -> RecordExecutable:
        """Return another pass that differs in the constants of its activation alone.

        It has a record of its own, and shares what both only read.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        # As integers: to copy a record field by field takes ten times as long.
        other.fields, other.arrays = self.fields.copy(), list(self.arrays)
        other.job, other.address = other.fields.view(self.job.dtype), address_of(other.fields)
        if activation is not None:
            other.job["constants"] = other._constants(activation)
        return other

    def _epilogue(self, options: Options) -> Epilogue:
        """Return the part of a record that says what is applied last."""
        activation = options.activation
        if activation is None:
            return Epilogue()
        constants = self._constants(activation)
        if activation.in_registers:
            return Epilogue(kernels_activate=True, constants=constants)
        activate = activate_address(self.schedule.conv.dtype)
        return Epilogue(activate=activate, constants=constants)

    def _constants(self, activation: Activation) -> int:
        """Return the address of constants, as kernels or `Activate` want them."""
        if activation.in_registers:
            return self._keep(activation.constants(self.schedule.conv.dtype))
        return self._keep(activate_constants(activation))

    def _keep(self, array: np.ndarray) -> int:
        """Keep an array for as long as the record; return its address."""
        self.arrays.append(array)
        return address_of(array)


class EmptyPass(Executable):
    """The pass of an empty batch: no images, or a sum of nothing."""

    def __init__(self, options: Options) -> None:
        super().__init__(1)
        self.add = options.add

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Write zeros, or add nothing."""
        if not self.add:
            out[...] = 0


class WithEpilogue(Executable):
    """A pass of an algorithm that only stores its results, and what follows it.

    Parameters
    ----------
    inner : Executable
        The pass.
    options : Options
        Whether results are added to what is there, and what is applied to them then.
    """

    def __init__(self, inner: Executable, options: Options) -> None:
        super().__init__(inner.threads)
        self.inner, self.options = inner, options
        self.pairs, self.takes_slices = inner.pairs, inner.takes_slices
        self.workspace_items, self.kernels = inner.workspace_items, inner.kernels

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute the result, in an array of its own where it is added, and what follows."""
        options = self.options
        result = np.empty_like(out) if options.add else out
        self.inner.run(team, a, b, bias, result, workspace)
        if options.add:
            out += result
        if options.relu:
            np.maximum(out, 0, out=out)
        elif options.activation is not None:
            function, *constants = options.activation
            images = flat_images(out)
            a, b, scale, shift = map(out.dtype.type, constants)
            pointwise(team, images, images, FUNCTIONS[function], a, b)
            if options.activation.is_scaled:
                pointwise(team, images, images, AFFINE, scale, shift)

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return what is kept of the filters."""
        return self.inner.prepack(team, w, workspace)

    def packed_key(self) -> Hashable:
        """Return all that `prepack` depends on."""
        return self.inner.packed_key()

    def use_packed(self, kept: Array) -> None:
        """Keep what another one has kept."""
        self.inner.use_packed(kept)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return self.inner.explain()
