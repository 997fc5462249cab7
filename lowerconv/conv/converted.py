"""Passes of bf16 and float16 arrays: converted to float32, and the result rounded once.

Sums are those of float32; only what is stored has 16 bits.  Conversion is exact, denormal numbers,
infinities and NaN included, and results are rounded to nearest even.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from lowerconv.codegen.half_arrays import HALF_DTYPES
from lowerconv.conv.arrays import flat_images
from lowerconv.conv.executable import Array, Executable, Options
from lowerconv.conv.packed_from import PackedFrom
from lowerconv.conv.problem import BF16, BF16_BITS
from lowerconv.ops.elementwise import copy
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, carved_items

FLOAT = np.dtype(np.float32)

Shapes = tuple[tuple[int, ...], ...]


class Converted(Executable):
    """A pass of float32, and the conversion of what it takes and gives.

    Parameters
    ----------
    inner : Executable
        The pass.
    shapes : tuple
        Of its operands a and b, the bias, and the result.
    dtype : dtype
        bfloat16, float16, or uint16 for the bits of the first: then what is not images is float32.
    options : Options
    """

    takes_slices = True

    def __init__(
        self,
        inner: Executable,
        shapes: Shapes,
        dtype: np.dtype,
        options: Options,
    ) -> None:
        super().__init__(inner.threads)
        self.inner, self.options = inner, options
        self.pairs, self.is_capturable, self.kernels = (
            inner.pairs,
            inner.is_capturable,
            inner.kernels,
        )
        self._name = BF16 if dtype == BF16_BITS else dtype.name
        self._bits_dtype = HALF_DTYPES["fp16" if dtype.kind == "f" else "bf16"]
        self._shapes = (*shapes, (inner.workspace_items,))
        self.workspace_items = 2 * carved_items(FLOAT, *self._shapes)
        self._kept = PackedFrom()
        self._constant: np.ndarray = np.empty(0, FLOAT)

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute a pass."""
        scratch = Scratch(workspace.array.view(FLOAT), workspace.address)
        own_a, own_b, own_bias, own_out, rest = scratch.carve(*self._shapes)
        self._expand(team, a, own_a)
        own_b = self._filters(team, b, own_b)
        bias = self._wide(team, bias, own_bias)
        self._run_inner(team, (own_a, own_b, bias), out, own_out, rest)

    def _run_inner(
        self,
        team: TeamHandle,
        operands: tuple[Array, Array, Array],
        out: Array,
        own: Array,
        rest: Array,
    ) -> None:
        """Run the inner pass, and round its result where it is not float32."""
        scratch = Scratch(rest, rest.ctypes.data)
        if out.dtype == FLOAT:
            self.inner.run(team, *operands, out, scratch)
            return
        if self.options.add:
            self._expand(team, out, own)
        self.inner.run(team, *operands, own, scratch)
        copy(team, flat_images(own), self._bits(out), False)

    def _bits(self, array: np.ndarray) -> tuple:
        return flat_images(array.view(self._bits_dtype))

    def _expand(self, team: TeamHandle, array: np.ndarray, target: np.ndarray) -> None:
        copy(team, self._bits(array), flat_images(target), False)

    def _wide(self, team: TeamHandle, array: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return an array in float32."""
        if array.dtype == FLOAT:
            return array
        self._expand(team, array, target)
        return target

    def _make_filters(self, team: TeamHandle, filters: np.ndarray, target: np.ndarray) -> None:
        """Write what the inner pass takes as filters."""
        self._expand(team, filters, target)

    def _are_made(self, filters: np.ndarray) -> bool:
        """Return whether the inner pass takes filters as they are."""
        return filters.dtype == FLOAT

    def _filters(self, team: TeamHandle, given: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return what the inner pass takes as filters.

        Where they do not change it is an array of their own, as `PackedFrom` needs.
        """
        if self._are_made(given):
            return given
        if not self.options.constant:
            self._make_filters(team, given, target)
            return target
        if not self._kept.has(given):
            self._kept.forget()
            self._constant = np.empty(target.shape, FLOAT)
            self._make_filters(team, given, self._constant)
            self._kept.take(given)
        return self._constant

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return what is kept of the filters, in float32."""
        filters = w
        if not self._are_made(w):
            filters = np.empty(self._shapes[1], FLOAT)
            self._make_filters(team, w, filters)
        scratch = Scratch(workspace.array.view(FLOAT), workspace.address)
        return self.inner.prepack(team, filters, scratch)

    def packed_key(self) -> Hashable:
        """Return all that `prepack` depends on beside the filters."""
        return type(self).__name__, self._name, self.inner.packed_key()

    def use_packed(self, kept: Array) -> None:
        """Keep what another one has kept."""
        if self.inner.packed_key() is not None:
            self.inner.use_packed(kept)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {"numbers": f"{self._name}, converted to float32 and back"} | self.inner.explain()
