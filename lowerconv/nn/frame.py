"""What a layer computes with at one place of a network: arrays with a plan of their memory."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.conv.like_plans import LikePlans
from lowerconv.copying import not_copied
from lowerconv.ops.elementwise import copy
from lowerconv.runtime.threads import run

if TYPE_CHECKING:
    from lowerconv.nn.conversion import Conversions

Shape = tuple[int, ...]


@not_copied("copy the network, which plans anew")
class Tensor:
    """An array in memory that is planned: whole, or some channels of a larger one.

    Attributes
    ----------
    shape : tuple of int
        Such as (N, C, H, W) or (N, features).
    dtype : dtype
    N, size : int
        Images, and items of each: the product of all other extents.
    image_step : int
        Items from one image to the next, at least as many as an image has.
    flat : ndarray, (items,)
        The memory from the first item of the array to its last.
    images : tuple
        The fields of `ops.images.Images`, as kernels take them; features are channels of one pixel,
        and axes beyond the third are pixels, too.
    """

    def __init__(self, shape: Shape, dtype: np.dtype, image_step: int | None = None) -> None:
        self.shape, self.dtype = shape, dtype
        self.size = prod(shape[1:])  # of an image
        self.N = shape[0] if shape else 1
        self.image_step = self.size if image_step is None else image_step
        self.flat: np.ndarray = np.empty(0)
        self._array: np.ndarray = self.flat
        self._find_images()

    @property
    def array(self) -> np.ndarray:
        """The array itself."""
        return self._array

    @property
    def stored(self) -> np.ndarray:
        """The array as it is stored: numbers, or the bits of 16-bit floats."""
        return self._array

    def values(self) -> np.ndarray:
        """Return the numbers, to be looked at."""
        return self.array

    def _find_images(self) -> None:
        C, H, *rest = *self.shape[1:], 1, 1
        self.images = (self.flat, self.image_step, self.N, C, H, prod(rest))

    @property
    def span(self) -> int:
        """Items from the first to the last, those of others between them included."""
        if not self.shape:
            return 1
        return (self.shape[0] - 1) * self.image_step + self.size if self.shape[0] else 0

    @property
    def whole(self) -> bool:
        """Whether images follow each other without anything in between."""
        return self.image_step == self.size or not self.shape or self.shape[0] <= 1

    def place(self, memory: np.ndarray) -> None:
        """Lie at the beginning of `memory`: bytes, or items of the dtype, 1-D and contiguous."""
        self.flat = memory[: self.span * self.dtype.itemsize // memory.itemsize].view(self.dtype)
        self._find_images()
        if self.whole:
            self._array = self.flat.reshape(self.shape)
            return
        item = self.dtype.itemsize
        strides = [item]
        for extent in self.shape[:1:-1]:
            strides.insert(0, strides[0] * extent)
        self._array = np.ndarray(
            self.shape, self.dtype, memory, 0, (self.image_step * item, *strides)
        )

    def leave(self) -> None:
        """Have no memory, until it is placed again."""
        self.flat = self._array = np.empty(0)
        self._find_images()

    def some(self, first: int, count: int) -> Tensor:
        """Return some of the images as a tensor."""
        part = type(self)((count, *self.shape[1:]), self.dtype, self.image_step)
        part.place(self.flat[first * self.image_step :])
        return part


@not_copied("copy the network, which plans anew")
class HalfTensor(Tensor):
    """A tensor that is stored as bf16 or fp16: 16-bit integers to NumPy, numbers to kernels.

    See `codegen.half_arrays`.
    """

    @property
    def array(self) -> np.ndarray:
        """Nothing that NumPy could compute with.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"array: got a tensor of 16-bit floats, as {self.dtype}, expected one of float32"
        )

    def values(self) -> np.ndarray:
        """Return the numbers, to be looked at: float32."""
        found = Tensor(self.shape, np.dtype(np.float32))
        found.place(np.empty(found.span, np.float32))
        run(copy, self.images, found.images, False)
        return found.array


@not_copied("copy the network, which plans anew")
class Frame:
    """One place of a network: the operands of a layer there, its result, and their gradients.

    Attributes
    ----------
    xs : tuple of Tensor
        The operands.
    y : Tensor
        The result.
    residual : Tensor or None
        What is added to the result, before the ReLU.
    over_residual : bool
        Whether the result is written over the residual.
    activation : Activation or None
        What the layer applies to its result.
    training, constant : bool
        Whether a backward step follows; whether the parameters will never change.
    views, views_gradient : tuple of bool
        Whether an operand, or its gradient, lies where the result's does, or in its part of that.
    saved : dict of str to ndarray
        What `Layer.saved` asks for; empty at inference.
    dy : Tensor or None
        Gradient of the result; None where nothing before it is learnt.
    dxs : tuple of Tensor or None
        Gradients of the operands; None where nobody asks.
    adds : tuple of bool
        Whether to add to a gradient in `dxs`, because the value has had other readers.
    dresidual, add_residual
        The same for the residual.
    node_number : int
        `Node.number`: tells the nodes apart, so that each draws random numbers of its own.
    prepared : dict
        What `Layer.prepare` has made: kernels, plans.
    filters : mapping of ndarray, optional
        Those that plans of programs of the same network keep, as of `ConvPlan.prepack`.
    plans : LikePlans
        Makes the plans of the program.
    workspace_bytes : int
        Scratch memory that its kernels need, which everybody shares.
    scratch_bytes : int
        What the layer asks for besides when it prepares.
    scratch : ndarray of uint8
        That many bytes of the arena: the layer's own for as long as it computes.
    launches : int
        Of kernels, that the layer makes beyond `nn.replay.LAUNCHES`.
    conversions : Conversions or None
        From and to what is stored, if that is not what the layer computes with.
    """

    def __init__(self, name: str, dtype: np.dtype, xs: tuple[Tensor, ...], y: Tensor) -> None:
        self.name, self.dtype = name, dtype
        self.xs, self.y = xs, y
        self.residual: Tensor | None = None
        self.activation: Activation | None = None
        self.training = self.constant = self.over_residual = False
        self.views = self.views_gradient = (False,) * len(xs)
        self.workspace_bytes = self.scratch_bytes = self.launches = 0
        self.scratch: np.ndarray = np.empty(0, np.uint8)
        self.saved: dict[str, np.ndarray] = {}
        self.dy: Tensor | None = None
        self.dxs: tuple[Tensor | None, ...] = (None,) * len(xs)
        self.adds = (False,) * len(xs)
        self.dresidual: Tensor | None = None
        self.add_residual = False
        self.node_number = 0
        self.prepared: dict[str, Any] = {}
        self.filters: MutableMapping[Hashable, np.ndarray] | None = None
        self.plans = LikePlans()
        self.conversions: Conversions | None = None

    @property
    def relu(self) -> bool:
        """Whether the layer applies ReLU, for those that apply no other activation."""
        return self.activation == RELU

    @property
    def x(self) -> Tensor:
        """The first operand."""
        return self.xs[0]

    @property
    def dx(self) -> Tensor | None:
        """The gradient of the first operand."""
        return self.dxs[0]

    @property
    def tensors(self) -> list[Tensor]:
        """All that there are."""
        found = *self.xs, self.y, self.residual, self.dy, *self.dxs, self.dresidual
        return [tensor for tensor in found if tensor is not None]

    @property
    def has_half(self) -> bool:
        """Whether any is a `HalfTensor`."""
        return HalfTensor in set(map(type, self.tensors))

    @property
    def stored_alike(self) -> bool:
        """Whether all tensors are of one dtype."""
        return len({tensor.dtype for tensor in self.tensors}) == 1

    @property
    def gradient(self) -> Tensor:
        """The gradient of the result, where there is one."""
        assert self.dy is not None
        return self.dy
