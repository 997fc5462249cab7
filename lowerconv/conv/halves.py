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
from lowerconv.ops.elementwise import copy
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch, carved_items

FLOAT = np.dtype(np.float32)


class Converted(Executable):
    """A pass of float32, and the conversion of what it takes and gives.

    Parameters
    ----------
    inner : Executable
        The pass.
    shapes : tuple
        Of its operands a and b, the bias, and the result.
    dtype : dtype
        bfloat16 or float16.
    options : Options
    """

    takes_slices = True

    def __init__(
        self,
        inner: Executable,
        shapes: tuple[tuple[int, ...], ...],
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
        self._name = dtype.name
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
        self._expand(team, bias, own_bias)
        if self.options.add:
            self._expand(team, out, own_out)
        self.inner.run(team, own_a, own_b, own_bias, own_out, Scratch(rest, rest.ctypes.data))
        copy(team, flat_images(own_out), self._bits(out), False)

    def _bits(self, array: np.ndarray) -> tuple:
        return flat_images(array.view(self._bits_dtype))

    def _expand(self, team: TeamHandle, array: np.ndarray, target: np.ndarray) -> None:
        copy(team, self._bits(array), flat_images(target), False)

    def _make_filters(self, team: TeamHandle, filters: np.ndarray, target: np.ndarray) -> None:
        """Write what the inner pass takes as filters."""
        self._expand(team, filters, target)

    def _filters(self, team: TeamHandle, given: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return what the inner pass takes as filters.

        Where they do not change it is an array of their own, as `PackedFrom` needs.
        """
        if given.dtype == FLOAT:  # what `prepack` has returned
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
