"""Convolutions of bf16 in tiles of AMX: exact on small integers, of every tiling, forward and back.

Those of bytes are in ``test_words.py``.
"""

from dataclasses import replace

import numpy as np
import pytest

from lowerconv.codegen.activation import RELU
from lowerconv.codegen.isa import ISAS, host_extensions
from lowerconv.conv.executable import Options
from lowerconv.conv.fused.forward import Forward
from lowerconv.conv.phases import convolution
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.tiling_search import tilings
from lowerconv.conv.word_format import WordFormat
from lowerconv.runtime.threads import parallel_region
from lowerconv.runtime.workspace import workspace

from ..long import LONG
from . import reference

ISA = ISAS["avx512"].extended("amx-int8", "amx-bf16")
pytestmark = pytest.mark.skipif(
    not set(ISA.extensions) <= set(host_extensions("avx512")),
    reason="this CPU, or this system, has no AMX",
)
FLOAT = np.dtype(np.float32)


def codes(numbers):
    """Return the codes of bf16, rounded to nearest even."""
    bits = np.asarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def pairs(numbers, axis):
    """Return words of two neighbours along an axis."""
    numbers = np.moveaxis(numbers, axis, 0)
    if len(numbers) % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[:1])])
    both = codes(numbers).astype(np.uint32)
    return np.ascontiguousarray(np.moveaxis(both[::2] | both[1::2] << 16, 0, axis))


def run(conv, tiling, source, filters, bias, out, **options):
    """Run a convolution of words."""
    threads = options.pop("threads")
    decided = Options(threads=threads, bias=bias.size > 0, **options)
    schedule = make_schedule(conv, ISA, (0,) * threads, tiling, decided.constant)
    executable = Forward(schedule, decided)
    scratch = workspace(executable.workspace_items, FLOAT)
    with parallel_region(threads) as team:
        for _ in range(2):  # the second time with filters that are packed
            result = out.copy()
            words = source.view(np.float32), filters.view(np.float32)
            executable.run(team, *words, bias, result, scratch)
    return result


def random_pass(rng, op):
    """Return a convolution of words, its operands, and the sums."""
    C, K = rng.choice([1, 3, 8, 33, 70]), rng.choice([1, 4, 15, 16, 17, 40])
    R, S = rng.choice([(1, 1), (1, 1), (3, 3), (2, 5)])
    groups = rng.choice([1, 1, 1, 2])
    stride = (rng.randint(1, 2), rng.randint(1, 3)) if op == "forward" else (1, 1)
    padding = tuple((rng.randint(0, 2), rng.randint(0, 2)) for _ in range(2))
    if op == "input_grad" or rng.random() < 0.3:
        padding = ((R // 2,) * 2, (S // 2,) * 2)
    H, W = rng.randint(R, 12), max(S, rng.choice([rng.randint(1, 20), 7, 14, 16, 32]))
    if groups > 1:  # no word belongs to two
        C, K = C + C % 2, K + K % 2
    x_shape, w_shape = (rng.choice([1, 2]), groups * C, H, W), (groups * K, C, R, S)
    problem = conv_problem(x_shape, w_shape, stride, padding, 1, groups)
    draw = np.random.default_rng(rng.randrange(2**32))
    w = draw.integers(-3, 4, w_shape).astype(np.float32)
    geometry = reference.Geometry(stride, padding, (1, 1), groups)
    conv = convolution(problem, op)
    conv = replace(conv, C=-(-conv.C // 2), word_format=WordFormat("bf16", "bf16"))
    if op == "forward":
        x = draw.integers(-3, 4, x_shape).astype(np.float32)
        expected = reference.forward(x.astype(float), w.astype(float), None, geometry)
        return conv, pairs(x, 1), pairs(w, 1), expected
    dy = draw.integers(-3, 4, problem.y_shape).astype(np.float32)
    expected = reference.input_grad(dy.astype(float), w.astype(float), x_shape, geometry)
    return conv, pairs(dy, 1), pairs(w, 0), expected


@pytest.mark.parametrize("op", ["forward", "input_grad"])
def test_sums_are_exact(op, rng):
    """With and without a bias, ReLU, and what is there; filters packed once, or at each call."""
    tried = 0
    while tried < (12 if LONG else 6):
        conv, source, filters, expected = random_pass(rng, op)
        found = [tiling for tiling in tilings(conv, ISA, True) if tiling.uses_amx]
        if not found:
            continue
        tiling, tried = rng.choice(found), tried + 1
        bias = np.array([rng.randint(-9, 9) for _ in range(conv.groups * conv.K)], np.float32)
        bias = bias[: rng.choice([0, len(bias)])]
        add, relu, constant = (rng.random() < 0.5 for _ in range(3))
        want = expected + add
        if bias.size:
            want = want + bias[:, None, None]
        want = np.maximum(want, 0) if relu else want
        options = {"add": add, "activation": RELU if relu else None, "constant": constant}
        out = np.ones(expected.shape, np.float32)
        for threads in (1, 2):
            got = run(conv, tiling, source, filters, bias, out, threads=threads, **options)
            np.testing.assert_array_equal(got, want, err_msg=f"{tiling.name} {options}")
        half = replace(conv, word_format=WordFormat("bf16", "bf16", result="bf16"))
        place = np.full(expected.shape, 0x3F80, np.uint16)  # 1
        got = run(half, tiling, source, filters, bias, place, threads=2, **options)
        np.testing.assert_array_equal(got, codes(want), err_msg=f"{tiling.name} {options}")


def test_bits_depend_neither_on_threads_nor_on_the_tiling(rng):
    conv, source, filters, expected = random_pass(rng, "forward")
    source = source ^ np.uint32(0x00310017)  # numbers whose sums are rounded
    results = [
        run(conv, tiling, source, filters, np.empty(0, np.float32), np.empty(expected.shape, FLOAT),
            threads=threads, constant=True)
        for tiling in tilings(conv, ISA, True) if tiling.uses_amx
        for threads in (1, 2, 3)
    ]  # fmt: skip
    for result in results[1:]:
        np.testing.assert_array_equal(result.view(np.uint32), results[0].view(np.uint32))
