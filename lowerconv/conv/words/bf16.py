"""Passes of bfloat16 on words of two numbers, where the CPU multiplies those faster.

Forward, and the input gradient at stride 1, on words of two channels; the weight gradient on words
of two images, whose pixels it sums.  All else goes by way of float32 (`conv.converted`).  Each sum
is that of products of float32, rounded at each addition, as `codegen.dots` tells; instructions of
x86-64 take denormal numbers as zeros, and make zeros of denormal sums.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from lowerconv.codegen.isa import host_isa_extended
from lowerconv.codegen.joining import join_address
from lowerconv.conv.arrays import flat_images
from lowerconv.conv.converted import FLOAT, Converted, Shapes
from lowerconv.conv.depthwise.schedule import by_planes
from lowerconv.conv.executable import Array, Executable, Options, WithEpilogue
from lowerconv.conv.fused.forward import Forward
from lowerconv.conv.fused.weights import WeightGrad
from lowerconv.conv.phases import CACHE_SIZE, Convolution, convolution, countable
from lowerconv.conv.problem import BF16, ConvProblem, Op
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.schedule_weights import make_weight_schedule
from lowerconv.conv.tiling import Tiling
from lowerconv.conv.tiling_search import tilings
from lowerconv.conv.word_format import WordFormat
from lowerconv.conv.words import tile_weights
from lowerconv.conv.words.tile_weights import TileWeights
from lowerconv.machine.features import has_fast_bf16
from lowerconv.ops.join_halves import join_channels, join_filters, join_images
from lowerconv.runtime.affinity import nodes
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.workspace import Scratch

PER_WORD = 2  # numbers
BF16_WORDS = WordFormat("bf16", "bf16", result="bf16")
SUMS = WordFormat("bf16", "bf16")


@lru_cache(maxsize=CACHE_SIZE)
def convolution_of_words(problem: ConvProblem, op: Op) -> Convolution | None:
    """Return a pass as a convolution of words; None where it is none, or float32 is as fast.

    For a weight gradient the forward pass that it belongs to, as in `phases.convolution`.
    """
    if not (problem.has_bits or problem.dtype.name == BF16):
        return None
    if not (_is_fast() or _has_tiles()):
        return None
    if by_planes(problem.computed, op) or not countable(problem):
        return None
    if op == "weight_grad":
        return replace(convolution(_of_pairs(problem), op), word_format=SUMS)
    conv = convolution(problem.computed, op)
    if len(conv.phases) > 1 or (conv.C % PER_WORD and conv.groups > 1):
        return None
    if conv.phases[0].out_column > 1:
        return None
    return replace(conv, C=-(-conv.C // PER_WORD), word_format=BF16_WORDS)


def _of_pairs(problem: ConvProblem) -> ConvProblem:
    """Return the problem of words of two images."""
    return replace(problem.computed, N=-(-problem.N // PER_WORD))


def _is_fast() -> bool:
    """Return whether words are multiplied faster than the same numbers in float32."""
    return has_fast_bf16() and bool({"avx512bf16", "bf16"} & set(host_isa_extended().extensions))


def _has_tiles() -> bool:
    """Return whether there are tiles of words, which are faster than vectors on any CPU."""
    return tile_weights.takes(host_isa_extended())


def _tilings(problem: ConvProblem, op: Op, constant: bool) -> list[Tiling]:
    """Return the tilings of a pass on words that are faster than float32, cheapest first."""
    conv = convolution_of_words(problem, op)
    if conv is None:
        return []
    found = tilings(conv, host_isa_extended(), constant)
    return [tiling for tiling in found if _is_fast() or tiling.vectors == "tiles"]


def estimate(problem: ConvProblem, op: Op, constant: bool) -> float | None:
    """Return the cost of a pass; None where it cannot be computed so."""
    if not problem.is_half:
        return None
    if op == "weight_grad" and convolution_of_words(problem, op) and _has_tiles():
        return tile_weights.estimate(problem)
    found = _tilings(problem, op, constant)
    return found[0].cost if found else None


def build(problem: ConvProblem, op: Op, shapes: Shapes, options: Options) -> Executable | None:
    """Return a pass on words; None where it cannot be computed so."""
    found = _tilings(problem, op, options.constant)
    activation = options.activation
    if not found or (activation and not activation.in_registers):
        return None
    isa, where = host_isa_extended(), nodes(options.threads)
    if op == "weight_grad" and _has_tiles():
        made: Executable = TileWeights(problem, isa, options.threads)
        return FromBits(_adding(made, options), shapes, problem.dtype, options)
    if op == "weight_grad":
        weights = make_weight_schedule(_of_pairs(problem), isa, where, word_format=SUMS)
        inner = _adding(WeightGrad(weights, options), options)
        return ImagePairs(inner, shapes, problem.dtype, options)
    conv = convolution_of_words(problem, op)
    assert conv is not None
    tiling = {tiling.name: tiling for tiling in reversed(found)}.get(options.variant or "")
    schedule = make_schedule(conv, isa, where, tiling or found[0], options.constant)
    return ChannelPairs(Forward(schedule, options), shapes, problem.dtype, options)


def _adding(executable: Executable, options: Options) -> Executable:
    """Return a pass that adds its results to what is there, where that is asked for."""
    return WithEpilogue(executable, options) if options.add else executable


class ChannelPairs(Converted):
    """A pass of words of two channels, and the making of words."""

    inner: Forward

    def __init__(self, inner: Forward, shapes: Shapes, dtype: np.dtype, options: Options) -> None:
        self._transposed = inner.schedule.conv.transposed
        (N, C, H, W), filters, bias, _ = shapes
        K, Cg, R, S = filters
        self._w_shape = (-(-K // PER_WORD), Cg, R, S)
        if not self._transposed:
            self._w_shape = (K, -(-Cg // PER_WORD), R, S)
        words = (N, -(-C // PER_WORD), H, W)
        super().__init__(inner, (words, self._w_shape, bias, (0,)), dtype, options)
        self._prepacked: Array | None = None

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute a pass."""
        scratch = Scratch(workspace.array.view(FLOAT), workspace.address)
        own_a, own_b, own_bias, _, rest = scratch.carve(*self._shapes)
        join_channels(team, self._bits(a), flat_images(own_a.view(np.uint32)))
        own_b = self._filters(team, b, own_b)
        bias = self._wide(team, bias, own_bias)
        bits: Any = out.view(np.uint16)
        self.inner.run(team, own_a, own_b, bias, bits, Scratch(rest, rest.ctypes.data))

    def _make_filters(self, team: TeamHandle, filters: Array, target: Array) -> None:
        given = filters if filters.dtype == FLOAT else filters.view(np.uint16)
        source, words = flat_images(given), flat_images(target.view(np.uint32))
        if self._transposed:  # pairs of what is summed over, which comes first
            K, C, R, S = filters.shape
            source = source[0], source[1], 1, K, 1, C * R * S
            words = words[0], words[1], 1, len(target), 1, C * R * S
        elif given.dtype == FLOAT and target[0, 0].size > 1:
            join_filters(team, source, words, join_address(self.inner.schedule.isa))
            return
        join_channels(team, source, words)

    def _are_made(self, filters: Array) -> bool:
        return filters is self._prepacked

    def prepack(self, team: TeamHandle, w: Array, workspace: Scratch) -> Array:
        """Return what is kept of the filters: words, or panels of them."""
        self._prepacked = kept = super().prepack(team, w, workspace)
        return kept

    def use_packed(self, kept: Array) -> None:
        """Keep what another one has kept."""
        super().use_packed(kept)
        self._prepacked = kept

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {"numbers": f"words of two channels, {self._name}"} | self.inner.explain()


class _WeightGradient(Converted):
    """A weight gradient of words of two images: no filters are kept."""

    def packed_key(self) -> Hashable:
        """Return None: no filters are kept."""
        return None

    def explain(self) -> dict[str, str]:
        """Return the decisions, for people."""
        return {"numbers": f"words of two images, {self._name}"} | self.inner.explain()


class FromBits(_WeightGradient):
    """A weight gradient that takes 16 bits as they are.

    Parameters
    ----------
    inner, shapes, dtype, options
        As of `Converted`.
    """

    def __init__(
        self, inner: Executable, shapes: Shapes, dtype: np.dtype, options: Options
    ) -> None:
        super().__init__(inner, ((0,), (0,), *shapes[2:]), dtype, options)

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute the gradient."""
        scratch = Scratch(workspace.array.view(FLOAT), workspace.address)
        _, _, bias, own_out, rest = scratch.carve(*self._shapes)
        bits: Any = (a.view(np.uint16), b.view(np.uint16))
        self._run_inner(team, (*bits, bias), out, own_out, rest)


class ImagePairs(_WeightGradient):
    """A weight gradient of words of two images, and the making of words.

    Parameters
    ----------
    inner, shapes, dtype, options
        As of `Converted`.
    """

    def __init__(
        self, inner: Executable, shapes: Shapes, dtype: np.dtype, options: Options
    ) -> None:
        (N, *dy), (_, *x), bias, result = shapes
        pairs = -(-N // PER_WORD)
        super().__init__(inner, ((pairs, *dy), (pairs, *x), bias, result), dtype, options)

    def run(
        self, team: TeamHandle, a: Array, b: Array, bias: Array, out: Array, workspace: Scratch
    ) -> None:
        """Compute the gradient."""
        scratch = Scratch(workspace.array.view(FLOAT), workspace.address)
        own_a, own_b, _, own_out, rest = scratch.carve(*self._shapes)
        for source, target in ((a, own_a), (b, own_b)):
            join_images(team, self._bits(source), flat_images(target.view(np.uint32)))
        self._run_inner(team, (own_a, own_b, bias), out, own_out, rest)
