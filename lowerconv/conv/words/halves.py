"""Passes of bfloat16 on words of two channels, where the CPU multiplies those faster.

Forward, and the input gradient at stride 1; the others go by way of float32 (`conv.halves`).  Each
sum is that of products of float32, rounded at each addition, as `codegen.dots` tells; instructions
of x86-64 take denormal numbers as zeros, and make zeros of denormal sums.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from lowerconv.codegen.isa import host_isa_extended
from lowerconv.conv.arrays import flat_images
from lowerconv.conv.depthwise.schedule import by_planes
from lowerconv.conv.executable import Array, Executable, Options
from lowerconv.conv.fused.forward import Forward
from lowerconv.conv.halves import FLOAT, Converted
from lowerconv.conv.phases import CACHE_SIZE, Convolution, convolution, countable
from lowerconv.conv.problem import ConvProblem, Op
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.tiling import tilings
from lowerconv.conv.word_format import WordFormat
from lowerconv.machine.features import has_fast_bf16
from lowerconv.ops.half_images import join_halves
from lowerconv.runtime.affinity import nodes
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch

PER_WORD = 2  # numbers
BF16_WORDS = WordFormat("bf16", "bf16", result="bf16")


@lru_cache(maxsize=CACHE_SIZE)
def convolution_of_words(problem: ConvProblem, op: Op) -> Convolution | None:
    """Return a pass as a convolution of words; None where it is none, or float32 is as fast."""
    if problem.dtype.name != "bfloat16" or not _is_fast():
        return None
    if op == "weight_grad" or by_planes(problem.computed, op) or not countable(problem):
        return None
    conv = convolution(problem.computed, op)
    if len(conv.phases) > 1 or (conv.C % PER_WORD and conv.groups > 1):
        return None
    if conv.phases[0].out_column > 1:
        return None
    return replace(conv, C=-(-conv.C // PER_WORD), word_format=BF16_WORDS)


def _is_fast() -> bool:
    """Return whether words are multiplied faster than the same numbers in float32."""
    return has_fast_bf16() and bool({"avx512bf16", "bf16"} & set(host_isa_extended().extensions))


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float | None:
    """Return the cost of a pass; None where it cannot be computed so."""
    conv = convolution_of_words(problem, op)
    return None if conv is None else tilings(conv, host_isa_extended(), constant)[0].cost


def build(
    problem: ConvProblem, op: Op, shapes: tuple[tuple[int, ...], ...], options: Options
) -> Executable | None:
    """Return a pass on words; None where it cannot be computed so."""
    conv = convolution_of_words(problem, op)
    activation = options.activation
    if conv is None or (activation and not activation.in_registers):
        return None
    isa, where = host_isa_extended(), nodes(options.threads)
    found = tilings(conv, isa, options.constant)
    tiling = {tiling.name: tiling for tiling in reversed(found)}.get(options.variant or "")
    schedule = make_schedule(conv, isa, where, tiling or found[0], options.constant)
    return HalfWords(Forward(schedule, options), shapes, problem.dtype, options)


class HalfWords(Converted):
    """A pass of words, and the making of words."""

    inner: Forward

    def __init__(
        self,
        inner: Forward,
        shapes: tuple[tuple[int, ...], ...],
        dtype: np.dtype,
        options: Options,
    ) -> None:
        self._transposed = inner.schedule.conv.transposed
        (N, C, H, W), filters, bias, _ = shapes
        K, Cg, R, S = filters
        self._w_shape = (-(-K // PER_WORD), Cg, R, S)
        if not self._transposed:
            self._w_shape = (K, -(-Cg // PER_WORD), R, S)
        words = (N, -(-C // PER_WORD), H, W)
        super().__init__(inner, (words, self._w_shape, bias, (0,)), dtype, options)

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute a pass."""
        scratch = Scratch(workspace.array.view(FLOAT), workspace.address)
        own_a, own_b, own_bias, _, rest = scratch.carve(*self._shapes)
        join_halves(team, self._bits(a), flat_images(own_a.view(np.uint32)))
        own_b = self._filters(team, b, own_b)
        self._expand(team, bias, own_bias)
        codes: Any = out.view(np.uint16)
        self.inner.run(team, own_a, own_b, own_bias, codes, Scratch(rest, rest.ctypes.data))

    def _make_filters(self, team: TeamHandle, filters: Array, target: Array) -> None:
        source, words = self._bits(filters), flat_images(target.view(np.uint32))
        if self._transposed:  # pairs of what is summed over, which comes first
            K, C, R, S = filters.shape
            source = source[0], source[1], 1, K, 1, C * R * S
            words = words[0], words[1], 1, len(target), 1, C * R * S
        join_halves(team, source, words)

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {"numbers": f"words of two {self._name}"} | self.inner.explain()
