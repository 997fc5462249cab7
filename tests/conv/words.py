"""Convolutions of bytes by the definition, and random ones; images of bytes as words."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.codegen.isa import ISAS, host_extensions
from lowerconv.conv.problem import ConvProblem, conv_problem
from lowerconv.conv.tiling_search import tilings
from lowerconv.conv.words.integer import IntegerConv
from lowerconv.machine.features import instruction_set

ORDER = ("avx512", "avx2", "sse")
CPU = instruction_set()
HOST = [ISAS[name] for name in (ORDER[ORDER.index(CPU) :] if CPU in ORDER else (CPU,))]
HERE = {isa.name: isa for isa in [*HOST, ISAS["generic"]]}
HERE |= {isa.name: isa for isa in (isa.extended(*host_extensions(isa.name)) for isa in HOST)}
TILES = {isa.name: isa for isa in HERE.values() if "amx-int8" in isa.extensions}
if TILES:  # and what the CPU would have without
    names = [name for name in host_extensions(CPU) if not name.startswith("amx")]
    HERE |= {isa.name: isa for isa in (ISAS[CPU].extended(*names),)}
by_isa = pytest.mark.parametrize("isa", HERE.values(), ids=HERE)

TYPES = {"u8": np.uint8, "s8": np.int8}
RANGES = {"u8": (0, 255), "s8": (-128, 127)}


def to_words(images: np.ndarray) -> np.ndarray:
    """Return bytes (N, C, H, W) as words (N, ceil(C / 4), H, W), zeros where no channel is."""
    N, C, H, W = images.shape
    wide = np.zeros((N, -(-C // 4) * 4, H, W), np.uint8)
    wide[:, :C] = images.view(np.uint8)
    split = wide.reshape(N, wide.shape[1] // 4, 4, H, W).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(split).view(np.uint32)[..., 0]


def from_words(words: np.ndarray, kind: str) -> np.ndarray:
    """Return words as bytes, those included that belong to no channel."""
    N, C, H, W = words.shape
    split = np.ascontiguousarray(words).view(TYPES[kind]).reshape(N, C, H, W, 4)
    return split.transpose(0, 1, 4, 2, 3).reshape(N, 4 * C, H, W)


@dataclass(frozen=True)
class Problem:
    """A convolution of bytes with all its numbers."""

    x: np.ndarray
    w: np.ndarray
    stride: tuple[int, int] = (1, 1)
    padding: Any = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    x_zero: int = 0
    out: str = "int32"
    low: float | None = None
    high: float | None = None
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    residual: np.ndarray | None = None
    residual_scale: float = 1.0
    residual_zero: int = 0
    algorithm: str = "auto"

    @property
    def x_kind(self) -> str:
        return "u8" if self.x.dtype == np.uint8 else "s8"

    @property
    def conv(self) -> ConvProblem:
        """Shapes and geometry."""
        geometry = self.stride, self.padding, self.dilation, self.groups
        return conv_problem(self.x.shape, self.w.shape, *geometry)

    def arguments(self) -> tuple[ConvProblem, dict[str, Any], dict[str, Any]]:
        """Return the problem, options, and the arguments of `prepack`."""
        options = {
            "x_kind": self.x_kind,
            "x_zero": self.x_zero,
            "out": self.out,
            "low": self.low,
            "high": self.high,
            "residual": self.residual if self.residual is None else kind_of(self.residual),
            "algorithm": self.algorithm,
        }
        filters = {
            "w": self.w,
            "scale": self.scale,
            "shift": self.shift,
            "residual_scale": self.residual_scale,
            "residual_zero": self.residual_zero,
        }
        return self.conv, options, filters

    def plan(self) -> IntegerConv:
        """Return the plan, which holds the filters."""
        problem, options, filters = self.arguments()
        plan = IntegerConv(problem, **options)
        plan.prepack(**filters)
        return plan

    def operands(self) -> list[np.ndarray]:
        """Return what a call of the plan takes."""
        return [to_words(a) for a in (self.x, self.residual) if a is not None]

    def sums(self) -> np.ndarray:
        """Return the sums, by the definition."""
        x = np.pad(
            self.x.astype(np.int32), ((0, 0), (0, 0), *self.padding), constant_values=self.x_zero
        )
        (K, C, R, S), w = self.w.shape, self.w.astype(np.int32)
        N, _, H, W = x.shape
        (rows, columns), (down, across) = self.stride, self.dilation
        P, Q = (H - down * (R - 1) - 1) // rows + 1, (W - across * (S - 1) - 1) // columns + 1
        y, own = np.zeros((N, K, P, Q), np.int32), K // self.groups
        for r in range(R):
            for s in range(S):
                tap = x[:, :, r * down :: rows, s * across :: columns][:, :, :P, :Q]
                for g in range(self.groups):
                    filters = slice(g * own, (g + 1) * own)
                    part = tap[:, g * C : (g + 1) * C]
                    y[:, filters] += np.einsum("nchw,kc->nkhw", part, w[filters, :, r, s])
        return y

    def expected(self) -> np.ndarray:
        """Return what a call must return; of bytes, with zeros where no channel is."""
        y = self.sums()
        if self.out == "int32":
            return y
        assert self.scale is not None and self.shift is not None
        y = y.astype(np.float32) * self.scale[:, None, None] + self.shift[:, None, None]
        if self.residual is not None:
            step = self.residual.astype(np.int32) - self.residual_zero
            y = y + step.astype(np.float32) * np.float32(self.residual_scale)
        assert y.dtype == np.float32
        least, most = RANGES.get(self.out, (-np.inf, np.inf))
        low, high = (
            least if self.low is None else self.low,
            most if self.high is None else self.high,
        )
        if self.out == "float32":
            return np.clip(y, np.float32(low), np.float32(high))
        return to_words(np.clip(np.rint(y), low, high).astype(TYPES[self.out]))


def guarded(problems: list[Problem], tiles: list[int | None]) -> list[np.ndarray]:
    """Return the results of calls on arrays flush against memory that nobody may touch.

    `tiles` are the kinds of tiles of AMX that plans are made for; see `tiled`.
    """
    jobs = []
    for number, (problem, kind) in enumerate(zip(problems, tiles, strict=True)):
        place = ("at-start", "at-end")[number % 2]
        out = np.full_like(problem.expected(), 77)
        jobs.append((number, place, kind, *problem.arguments(), problem.operands(), out))
    path = os.pathsep.join(
        filter(None, [str(Path(lc.__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("guarded_words.py"))],
        input=pickle.dumps(jobs),
        capture_output=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": path},
    )
    messages = done.stderr.decode()
    assert done.returncode == 0, f"return code {done.returncode} in {messages[-2000:]}"
    found: list[np.ndarray] = pickle.loads(done.stdout)
    return found


def tiled(kind: int | None):
    """Return what takes the place of `tilings`: tiles of AMX first, where there are some."""

    def found(conv: Any, isa: Any, constant: bool) -> list[Any]:
        every = tilings(conv, isa, constant)
        tiles = [tiling for tiling in every if tiling.uses_amx]
        return tiles[kind % len(tiles) :] if tiles and kind is not None else list(every)

    return found


def kind_of(array: np.ndarray) -> str:
    return "u8" if array.dtype == np.uint8 else "s8"


def random_bytes(rng: random.Random, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Return bytes of any value, or one of the extremes everywhere."""
    least, most = RANGES[kind]
    if rng.random() < 0.1:
        return np.full(shape, rng.choice([least, most]), TYPES[kind])
    draw = np.random.default_rng(rng.randrange(2**32))
    return draw.integers(least, most + 1, shape).astype(TYPES[kind])


def random_problem(rng: random.Random) -> Problem:
    """Return a problem in which everything is drawn."""
    C, K = rng.choice([1, 2, 3, 4, 5, 8, 17]), rng.choice([1, 2, 3, 4, 5, 16, 17, 33])
    groups = rng.choice([1, 1, 1, 2, 3, 4])
    if rng.random() < 0.2:
        groups, C, K = rng.choice([4, 7, 12]), 1, rng.choice([1, 1, 2])
    R, S = (1, 1) if rng.random() < 0.3 else (rng.randint(1, 7), rng.randint(1, 7))
    stride = rng.randint(1, 3), rng.choice([1, 1, 2, 3, 5])
    dilation = rng.randint(1, 2), rng.randint(1, 2)
    padding = tuple((rng.randint(0, 3), rng.randint(0, 3)) for _ in range(2))
    if rng.random() < 0.3:
        padding = (0, 0), (0, 0)
    least = [d * (taps - 1) + 1 for d, taps in zip(dilation, (R, S), strict=True)]
    H = max(least[0], rng.randint(1, 20))
    W = max(least[1], rng.choice([rng.randint(1, 40), 7, 14, 16, 33]))
    kind, out = rng.choice(["u8", "s8"]), rng.choice(["u8", "s8", "u8", "s8", "float32", "int32"])
    shape, zero = (rng.choice([0, 1, 1, 3]), groups * C, H, W), rng.randint(*RANGES[kind])
    w = random_bytes(rng, (groups * K, C, R, S), "s8")
    x = random_bytes(rng, shape, kind)
    common: Any = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "x_zero": rng.choice([0, zero]),
        "out": out,
    }
    if out == "int32":
        return Problem(x, w, **common)
    draw = np.random.default_rng(rng.randrange(2**32))
    size = 6e-3 / np.sqrt(C * R * S) / rng.choice([1, 8])
    scale = (draw.uniform(0.5, 2, groups * K) * size).astype(np.float32)
    shift = draw.uniform(-50, 200, groups * K).astype(np.float32)
    if rng.random() < 0.3:  # many ties
        scale[...], shift[...] = 2.0**-7, 0.5
    common |= {"scale": scale, "shift": shift}
    if rng.random() < 0.5:
        ends = RANGES.get(out, (-100, 100))
        common["low"], common["high"] = sorted(rng.randint(*ends) for _ in range(2))
    if out in TYPES and rng.random() < 0.5:
        other = rng.choice(["u8", "s8"])
        common |= {
            "residual": random_bytes(rng, Problem(x, w, **common).sums().shape, other),
            "residual_scale": rng.uniform(0.1, 1),
            "residual_zero": rng.randint(*RANGES[other]),
        }
    return Problem(x, w, **common)
