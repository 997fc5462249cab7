"""`IntegerConv`: a convolution of bytes, decided once and called many times."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lowerconv.checks import integer
from lowerconv.codegen.dots import SIGNS
from lowerconv.codegen.isa import host_isa_extended
from lowerconv.codegen.microkernel_requantize import CONSTANTS, RANGES
from lowerconv.conv.arrays import are_slices, contiguous, overlap
from lowerconv.conv.executable import Options
from lowerconv.conv.explain import as_text, problem_lines
from lowerconv.conv.fused.forward import Forward
from lowerconv.conv.phases import convolution
from lowerconv.conv.problem import ConvProblem
from lowerconv.conv.records import Requantization
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.tiling_search import tilings
from lowerconv.conv.word_format import WordFormat
from lowerconv.conv.words.arguments import checked, chosen, result_range, zero_point
from lowerconv.conv.words.filters import filter_words, merged_groups, words_for
from lowerconv.conv.words.ternary import Ternary
from lowerconv.conv.words.ternary_schedule import is_ternary_cheaper, make_ternary_schedule
from lowerconv.copying import not_copied
from lowerconv.ops.ternary_codes import TernaryCodes, is_ternary, unpacked
from lowerconv.runtime.affinity import nodes
from lowerconv.runtime.threads import get_num_threads, parallel_region
from lowerconv.runtime.workspace import check_bytes, workspace

ALGORITHMS = ("auto", "fused", "ternary")
RESULTS = ("u8", "s8", "float32", "int32")
WORD = np.dtype(np.uint32)
Y_MAX = 2.0**30  # steps of the result, before they are clamped


class _Prepacked(NamedTuple):
    """What calls need of the filters."""

    w: np.ndarray | TernaryCodes  # (K, C/groups, R, S)
    shared: MutableMapping[Hashable, np.ndarray]
    origin: Hashable
    scale: np.ndarray  # (K,)
    shift: np.ndarray
    constants: np.ndarray


@not_copied("make another from its arguments, and call its `prepack`")
class IntegerConv:
    """A convolution of bytes, exact to the last bit on every CPU and any number of threads.

    For the sums s of products, as 32-bit integers, each operation rounded to float32 by itself::

        y = s * scale[k] + shift[k]  [ + (residual - residual_zero) * residual_scale ]
        result = round(clamp(y, low, high)),  half to even       "u8", "s8"
        result = clamp(y, low, high)                             "float32"
        result = s                                               "int32"

    Pixels are taken as they are, their zero point not subtracted: the caller adds ``-x_zero *
    sum(w[k]) * scale[k]`` to the shift.  That is right at borders too, where padding is `x_zero`.

    Images of bytes are words of four channels, (N, ceil(C / 4), H, W), the lowest channel in the
    lowest byte.  Bytes of channels that do not exist may hold anything in what is read; in results
    they are zeros.

    Parameters
    ----------
    problem : ConvProblem
        Shapes, in channels, and geometry; its dtype does not count.
    x_kind : {"u8", "s8"}
        What bytes of x hold; those of the filters are signed.
    x_zero : int
        The number that padding holds.
    out : {"u8", "s8", "float32", "int32"}
        The result: words (N, ceil(K / 4), P, Q), or an array (N, K, P, Q).
    low, high : float, optional
        What results are clamped to, integers for bytes; default: all that the result can hold.
    residual : {None, "u8", "s8"}
        Whether words, laid out as the result, are added, and what they hold.
    nonzero : int, optional
        Where all weights are -1, 0 or 1: how many of them are not 0, for which "auto" estimates
        what it costs to skip the others.
    algorithm : {"auto", "fused", "ternary"}
        Products of bytes, or sums of pixels that ternary weights select; "auto" takes the one of
        least estimated cost.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit together; the message names the one.
    MemoryError
        The result or the workspace could not exist on this machine.
    """

    def __init__(
        self,
        problem: ConvProblem,
        *,
        x_kind: str = "u8",
        x_zero: int = 0,
        out: str = "u8",
        low: float | None = None,
        high: float | None = None,
        residual: str | None = None,
        nonzero: int | None = None,
        algorithm: str = "auto",
    ) -> None:
        self.problem = problem
        zero = zero_point(x_zero, "x_zero", chosen(x_kind, "x_kind", tuple(RANGES)))
        self.out = chosen(out, "out", RESULTS)
        self.range = result_range(out, low, high)
        if residual is not None:
            chosen(residual, "residual", (None, *RANGES))
            if out not in RANGES:
                raise ValueError(f"residual: got {residual!r} with out {out!r}, expected None")
        self.residual = residual
        self._merged = merged_groups(
            problem.groups, problem.w_shape[1], problem.K // problem.groups
        )
        result = "sums" if out == "int32" else out
        padding_word = (zero & 0xFF) * 0x01010101
        self._word_format = WordFormat(x_kind, "s8", padding_word, result, residual is not None)
        N, C, H, W = problem.x_shape
        N, K, P, Q = problem.y_shape
        self.x_shape = N, words_for(C), H, W
        self.out_dtype = WORD if out in RANGES else np.dtype(out)
        self.out_shape = N, words_for(K) if out in RANGES else K, P, Q
        check_bytes(4 * N * self.out_shape[1] * P * Q, f"out {self.out_shape}")
        self.nonzero = None if nonzero is None else integer(nonzero, "nonzero", 0)
        self.algorithm = self._asked = chosen(algorithm, "algorithm", ALGORITHMS)
        self.threads = get_num_threads()
        self._prepacked: _Prepacked | None = None
        self._executable = self._ready()

    def prepack(
        self,
        w: np.ndarray | TernaryCodes,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        *,
        residual_scale: float = 1.0,
        residual_zero: int = 0,
        shared: MutableMapping[Hashable, np.ndarray] | None = None,
        origin: Hashable = None,
    ) -> None:
        """Keep, packed, what all calls to come multiply with; later changes are not seen.

        Parameters
        ----------
        w : ndarray, (K, C/groups, R, S), int8, or TernaryCodes
        scale, shift : ndarray, (K,), float32
            Where the result is not int32.
        residual_scale : float
            Rounded to float32.
        residual_zero : int
            The zero point of the residual.
        shared : mutable mapping of ndarray, optional
            What plans keep, so that others need not keep the same again: `w` never changes.
        origin : hashable
            Tells `w` apart from all other filters that plans keep in `shared`.

        Raises
        ------
        TypeError, ValueError
            An array that does not fit, a number that a byte cannot hold, or weights that are not
            ternary as planned.
        """
        problem = self.problem
        codes = checked(unpacked(w), "w", np.dtype(np.int8), problem.w_shape)
        ternary = self.nonzero is not None or self.algorithm == "ternary"
        if ternary and not is_ternary(codes):
            raise ValueError(
                f"w: got {codes.min()} to {codes.max()}, expected -1, 0 and 1 alone, as planned"
            )
        scale, shift = (
            self._numbers(array, name) for array, name in ((scale, "scale"), (shift, "shift"))
        )
        constants = np.zeros(1, CONSTANTS)
        ends = np.array(self.range, np.float32).view(np.uint32)
        if self.out in RANGES:
            ends = np.array([(int(end) & 0xFF) * 0x01010101 for end in self.range], np.uint32)
        constants["low"], constants["high"] = ends
        if self.residual:
            zero = zero_point(residual_zero, "residual_zero", self.residual)
            signed = self.residual == "s8"
            constants["scale"] = residual_scale
            constants["zero"], constants["signs"] = zero + 128 * signed, SIGNS * signed
        if self.out in RANGES:
            self._check_size(codes, scale, shift, constants["scale"][0])
        if ternary and isinstance(w, np.ndarray):
            w = TernaryCodes.of(w)
        if shared is None:
            w, shared = w.copy() if isinstance(w, np.ndarray) else w, {}
        self._prepacked = _Prepacked(w, shared, origin, scale, shift, constants)
        with parallel_region(self.threads) as team:
            self._pack(team)

    def __call__(
        self, x: np.ndarray, residual: np.ndarray | None = None, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Convolve.

        Parameters
        ----------
        x : ndarray, (N, ceil(C / 4), H, W), uint32
            Words; they may be some of larger images.
        residual : ndarray, optional
            Words, of the shape of the result; it may be `out` itself.
        out : ndarray, optional
            Where to put the result, whose memory no operand shares.

        Returns
        -------
        ndarray

        Raises
        ------
        TypeError, ValueError
            An array that does not fit the plan.
        """
        if self._prepacked is None:
            raise ValueError("w: got no filters, expected `prepack` to be called first")
        if (residual is None) != (self.residual is None):
            got = "no array" if residual is None else "an array"
            raise ValueError(f"residual: got {got}, expected as planned: {self.residual!r}")
        checked(x, "x", WORD, self.x_shape)
        result = np.empty(self.out_shape, self.out_dtype) if out is None else out
        checked(result, "out", self.out_dtype, self.out_shape)
        if out is not None and not are_slices(out):
            raise ValueError("out: got images that are not contiguous, or read-only, expected some")
        given = [x]
        if residual is not None:
            checked(residual, "residual", WORD, self.out_shape)
            given += [residual] * (residual is not out)
        if out is not None:
            for array in given:
                if np.may_share_memory(out, array) and overlap(out, array):
                    raise ValueError("out: got memory of an operand, expected memory of its own")
        x = x if are_slices(x) else contiguous(x, "x")
        if residual is not None and not are_slices(residual):
            residual = contiguous(residual, "residual")
        if result.size:
            with parallel_region(self.threads) as team:
                self._run(team, x, residual, result)
        return result

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory for all threads together, in bytes."""
        return 4 * self._executable.workspace_items

    @property
    def reason(self) -> str:
        """Why the algorithm, and the microkernel that most work is done in."""
        kernel = self._executable.explain()["microkernel"]
        if self.algorithm == "ternary":
            return f"masks of weights that are not zero, {kernel}"
        return f"words of four bytes, {kernel}"

    def explain(self) -> str:
        """Return what was chosen and why, as lines of text.

        Returns
        -------
        str
        """
        word_format = self._word_format
        numbers = f"words of four {word_format.pixels}"
        filters = "-1, 0, 1, zeros skipped" if self.algorithm == "ternary" else word_format.filters
        lines = problem_lines(self.problem, "forward", numbers) | {
            "algorithm": f"{self.algorithm}: {self.reason}",
            "products": f"{word_format.pixels} by {filters}, sums of 32 bits, exact",
            "threads": str(self.threads),
            "workspace": f"{self.workspace_bytes:,} bytes for all threads",
        }
        lines |= self._executable.explain()
        if self.out != "int32":
            residual = ["residual"] if self.residual else []
            last = "{} in {:g} ... {:g}".format(self.out, *self.range)
            lines["epilogue"] = ", ".join(["scale", "shift", *residual, last])
        return as_text(lines)

    def _numbers(self, array: np.ndarray | None, name: str) -> np.ndarray:
        """Return a copy of numbers of all filters, checked."""
        if array is None and self.out == "int32":
            return np.zeros(self.problem.K, np.float32)
        numbers = np.array(checked(array, name, np.dtype(np.float32), (self.problem.K,)))
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name}: got numbers that are not finite, expected finite ones")
        return numbers

    def _check_size(
        self, w: np.ndarray, scale: np.ndarray, shift: np.ndarray, residual_scale: float
    ) -> None:
        """Raise ValueError where y could leave the range of int32, which kernels round to."""
        most = 255 if self._word_format.pixels == "u8" else 128
        sums = np.abs(w.astype(np.int32)).sum((1, 2, 3)) * float(most)
        reach = sums * np.abs(scale) + np.abs(shift) + 255 * abs(float(residual_scale))
        if reach.max() >= Y_MAX:
            raise ValueError(
                f"scale: got results that reach {reach.max():.3g} steps, expected below {Y_MAX:.3g}"
            )

    def _ready(self) -> Forward | Ternary:
        """Return the executable for the threads; that of one image where the batch is empty."""
        problem = self.problem
        merged = replace(problem, N=max(1, problem.N), groups=problem.groups // self._merged)
        conv = replace(
            convolution(merged, "forward"),
            C=words_for(merged.C // merged.groups),
            dtype=np.dtype(np.int32),
            word_format=self._word_format,
        )
        isa, options = host_isa_extended(), Options(threads=self.threads, constant=True)
        where, tiling = nodes(self.threads), tilings(conv, isa, True)[0]
        executable: Forward | Ternary
        self.algorithm = self._asked
        if self._asked == "auto":
            cheaper = is_ternary_cheaper(conv, isa, tiling, self.nonzero)
            self.algorithm = "ternary" if cheaper else "fused"
        if self.algorithm == "ternary":
            executable = Ternary(make_ternary_schedule(conv, isa, where), options)
        else:
            executable = Forward(make_schedule(conv, isa, where, tiling, constant=True), options)
        check_bytes(4 * executable.workspace_items, "workspace")
        return executable

    def _pack(self, team: Any) -> None:
        """Pack the filters; make the executable anew where the team has fewer threads."""
        if team.threads < self.threads:
            self.threads = team.threads
            self._executable = self._ready()
        executable, prepacked = self._executable, self._prepacked
        assert prepacked is not None
        layout = self._merged, executable.packed_key()
        packed = prepacked.shared.get((prepacked.origin, layout))
        if packed is None:
            words = filter_words(unpacked(prepacked.w), self.problem.groups, self._merged)
            scratch = workspace(executable.workspace_items, np.dtype(np.float32))
            packed = executable.prepack(team, _bits(words), scratch)
            prepacked.shared[prepacked.origin, layout] = packed
        elif executable.packed_key() is not None:
            executable.use_packed(packed)
        self._packed = packed
        schedule = executable.schedule
        conv = schedule.conv
        shape = conv.groups, schedule.panels * schedule.NR
        padded = np.zeros((2, *shape), np.float32)
        padded[:, :, : conv.K] = np.stack([prepacked.scale, prepacked.shift]).reshape(2, -1, conv.K)
        self._scales_and_shifts = padded
        requantization = Requantization()
        if self.out != "int32":
            scales, shifts = (array.ctypes.data for array in padded)
            requantization = Requantization(scales, shifts, prepacked.constants.ctypes.data)
        executable.set_requantization(requantization)

    def _run(self, team: Any, x: np.ndarray, residual: np.ndarray | None, out: np.ndarray) -> None:
        if team.threads < self.threads:
            self._pack(team)
        executable = self._executable
        if residual is not None:
            executable.job["residual"] = residual.ctypes.data
            executable.job["ld_residual"] = residual.strides[0] // 4
        scratch = workspace(executable.workspace_items, np.dtype(np.float32))
        executable.run(team, _bits(x), self._packed, executable.no_bias, _bits(out), scratch)


def _bits(array: np.ndarray) -> np.ndarray:
    """Return an array as float32, the kind of array that loops are compiled for."""
    return array.view(np.float32)
