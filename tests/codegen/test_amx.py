"""Tiles of AMX: their assembly anywhere, and where a CPU has them what they compute, exactly.

Pixels are gathered for them by code that needs AVX-512 alone.
"""

import re

import numpy as np
import pytest

from lowerconv.codegen import amx, amx_check
from lowerconv.codegen.dots import BF16, S8_S8, U8_S8
from lowerconv.codegen.emit import Emitter
from lowerconv.codegen.isa import ISAS, host_extensions
from lowerconv.codegen.jit import assembly
from lowerconv.codegen.microkernel import Microkernel
from lowerconv.codegen.microkernel_bf16 import Bf16Microkernel
from lowerconv.codegen.microkernel_requantize import RequantizingMicrokernel
from lowerconv.codegen.signatures import ADD, Configure, GatherNumbers, TileGeometry

from .guarded_calls import CPU, PLACES, Job, call
from .test_assembly import loop_of
from .tiles import compare, integers, numbers, untouched

WORDS = {BF16: "tdpbf16ps", U8_S8: "tdpbsud", S8_S8: "tdpbssd"}
ISA = ISAS["avx512"].extended("amx-int8", "amx-bf16")
SIZE = amx.SIZE
HAS = {"amx-int8", "amx-bf16"} <= set(host_extensions("avx512")) and CPU == "avx512"
needs_tiles = pytest.mark.skipif(not HAS, reason="this CPU, or this system, has no AMX")
needs_masks = pytest.mark.skipif(CPU != "avx512", reason="this CPU has no AVX-512")
by_words = pytest.mark.parametrize("words", WORDS, ids="-".join)


def tile_of(words, MR, NV, panel=0, tail=False, kind=Microkernel, **options):
    columns, step = tuple(range(0, SIZE * NV, SIZE)), (panel or -(-MR // SIZE) * SIZE) * SIZE
    rows = tuple(range(MR))
    return kind(
        ISA, words.sums, rows, columns, step, None, "rows", tail=tail, words=words, uses_amx=True,
        **options,
    )  # fmt: skip


@by_words
@pytest.mark.parametrize("shape", amx.SHAPES, ids="{0[0]}x{0[1]}".format)
def test_the_loop_multiplies_tiles_and_nothing_more(words, shape):
    MT, NT = shape
    kind = Bf16Microkernel if words == BF16 else RequantizingMicrokernel
    for made in (tile_of(words, SIZE * MT, NT), tile_of(words, SIZE * MT - 3, NT, 0, True, kind)):
        body = loop_of(made.assembly(), WORDS[words])
        products = [line for line in body if WORDS[words] in line]
        assert len(products) == MT * NT
        assert len({line.split("%")[-1] for line in products}) == MT * NT  # sums stay apart
        assert sum("tileloadd" in line for line in body) == MT + NT
        assert not [
            line for line in body if re.search(r"[xyz]mm\d|tilestored|tilecfg|\bcall", line)
        ]
        assert len(body) <= MT * NT + MT + NT + 2 * NT + 6, body


def test_tiles_are_configured_by_one_function():
    e = Emitter.function("configure", Configure, ISA, np.dtype(np.int32))
    amx._configure(e)
    text = assembly(e.finish(), ISA)
    assert len(re.findall(r"\bldtilecfg\b", text)) == len(re.findall(r"\btilerelease\b", text)) == 1


def test_tiles_are_asked_for_where_there_are_some():
    assert not amx.has_tiles(ISAS["avx512"], U8_S8)
    assert not amx.has_tiles(ISAS["avx512"].extended("amx-int8"), BF16)
    for words, isa in ((U8_S8, ISAS["avx2"]), (None, ISA)):
        with pytest.raises(ValueError, match="uses_amx: got"):
            Microkernel(
                isa, np.dtype(np.int32), (0,), (0,), 1, None, "rows", words=words, uses_amx=True
            )


def product(rng, words, MR, NV, k, tail, valid, mode, panel):
    """Return a call of a register tile, and what it must give."""
    kernel = tile_of(words, MR, NV, panel, bool(tail))
    filters = integers(rng, k * panel * SIZE, words.broadcast)
    gap = rng.choice([0, 16, 48])  # words behind a row of k: panels, or planes of an image
    line = NV * SIZE + gap
    pixels = integers(rng, (k * SIZE - 1) * line + NV * SIZE, words.vector)
    bias = integers(rng, MR, words.sums, 20)
    width = (NV - 1) * SIZE + (tail or SIZE)
    ld_out = width + rng.choice([0, 3])
    size = (max(1, min(valid, MR)) - 1) * ld_out + width
    out = integers(rng, size, words.sums, 20) if mode & ADD else untouched(size, words.sums)
    own = TileGeometry(tail or SIZE, 0, 0, 4 * line, 4 * SIZE, 4 * SIZE * line)
    table = np.zeros(2, np.int32)
    arguments = [k, pixels, filters, table, out, ld_out, bias, valid, mode]
    a = numbers(filters, words.broadcast).reshape(k, panel, SIZE, -1)[:, :MR]
    b = np.zeros((k * SIZE * line, numbers(pixels[:1], words.vector).shape[1]))
    b[: pixels.size] = numbers(pixels, words.vector)
    b = b.reshape(k, SIZE, line, -1)[:, :, :width]
    sums = np.einsum("kfwn,kwpn->fp", a, b) + bias.astype(float)[:, None]
    want = out.astype(float)
    for i in range(min(valid, MR)):
        row = slice(i * ld_out, i * ld_out + width)
        value = sums[i] + (want[row] if mode & ADD else 0)
        want[row] = np.maximum(value, 0) if mode & 2 else value
    name = f"{words} {MR=} {NV=} {k=} {tail=} {valid=} {mode=} {panel=}"
    place = rng.choice(PLACES)
    numbers_at = np.array(own, np.int64)
    job = Job(f"{name} {place}", kernel, [*arguments, numbers_at, 0], 4, place)
    return job, want.astype(words.sums)


@needs_tiles
@by_words
def test_register_tiles(words, rng):
    pairs = []
    for MT, NV in amx.SHAPES:
        for k in (1, 2, 5):
            MR = rng.choice([SIZE * MT, SIZE * (MT - 1) + rng.randint(1, SIZE)])
            valid = rng.choice([MR, rng.randint(0, MR)])
            tail = rng.choice([0, rng.randint(1, SIZE - 1)])
            panel = SIZE * rng.choice([MT, 2])
            panel = max(panel, SIZE * MT)
            pairs.append(product(rng, words, MR, NV, k, tail, valid, rng.randrange(4), panel))
    compare(*zip(*pairs, strict=True))


@needs_tiles
@by_words
def test_the_check_of_this_machine(words, monkeypatch):
    amx_check.tiles_work.cache_clear()
    assert amx_check.tiles_work(ISA, words)
    amx_check.tiles_work.cache_clear()
    monkeypatch.setattr(amx_check, "_product", lambda *_: False)
    assert not amx_check.tiles_work(ISA, words)
    amx_check.tiles_work.cache_clear()


@needs_tiles
def test_denormal_numbers_and_sums_are_zeros_and_nan_stays_in_its_column():
    """As the module tells of ``tdpbf16ps``."""
    codes = np.zeros((SIZE, SIZE, 2), np.uint16)
    codes[0, :, 0] = [0x0001, 0x7FC0, 0x7F80, 0xFF80, 0x0080, 0x3F80, *[0] * 10]
    filters = np.zeros((SIZE, SIZE, 2), np.uint16)
    filters[:3, 0, 0] = 0x3F80, 0x0000, 0x3F00  # 1, 0, 1/2
    words = [np.ascontiguousarray(a).view(np.uint32).ravel() for a in (codes, filters)]
    own = np.array(TileGeometry(SIZE, 0, 0, 4 * SIZE, 4 * SIZE, 4 * SIZE * SIZE), np.int64)
    out, table, bias = (
        np.zeros(3 * SIZE, np.float32),
        np.zeros(2, np.int32),
        np.zeros(3, np.float32),
    )
    arguments = [1, *words, table, out, SIZE, bias, 3, 0, own, 0]
    job = Job("special", tile_of(BF16, 3, 1, SIZE), arguments, 4, PLACES[0])
    (result,) = call([job])
    inf, nan, tiny = np.inf, np.nan, np.float32(2.0**-126)
    want = [[0, nan, inf, -inf, tiny, 1], [0, nan, nan, nan, 0, 0], [0, nan, inf, -inf, 0, 0.5]]
    np.testing.assert_array_equal(result.reshape(3, SIZE)[:, :6], np.array(want, np.float32))


def gathering(rng):
    """Return a call of ``gather``, and what it must give."""
    step, stride_h, dense = rng.choice([1, 1, 2, 3, 4]), rng.randint(1, 3), rng.random() < 0.4
    H, W, channels = rng.randint(1, 9), rng.choice([1, 3, 7, 16, 20, 40, 70]), rng.randint(1, 9)
    P, Q = rng.randint(1, 9), rng.choice([1, 2, 5, 7, 14, 16, 17, 33])
    if dense:
        step, stride_h, Q = 1, 1, W
    taps = [(rng.randint(-3, 4), rng.randint(-4, 4)) for _ in range(rng.choice([1, 3, 9]))]
    first = rng.randrange(P * Q)
    count = rng.randint(1, min(64, P * Q - first))
    k, panels = channels * len(taps), -(-count // SIZE)
    room, value = amx.rounded_k(k) * SIZE, rng.choice([0, 0x07070707])
    image = integers(rng, channels * H * W, "u8")
    target = untouched(panels * room, np.dtype(np.int32))
    taps = [(row, column, row * W + column) for row, column in taps]
    rows, columns, _ = zip(*taps, strict=True)
    ends = min(rows), max(rows), min(columns), max(columns)
    own = GatherNumbers(H, W, Q, stride_h, *ends, channels, len(taps), room, value)
    arguments = [image, first, count, target, np.array(own, np.int64), np.array(taps, np.int32)]
    want = target.copy().reshape(panels, -1, SIZE)
    some = np.arange(panels * SIZE).reshape(panels, 1, SIZE) < count  # others may hold anything
    want[:, k:] = 0
    planes = image.view(np.int32).reshape(channels, H, W)
    for i in range(count):
        row, column = divmod(first + i, Q)
        for number, (down, across, _) in enumerate(taps):
            y, x = row * stride_h + down, column * step + across
            inside = 0 <= y < H and 0 <= x < W
            read = planes[:, y, x] if inside else value
            want[i // SIZE, number : k : len(taps), i % SIZE] = read
    kernel = "gather_address", ISAS["avx512"], np.dtype(np.int32), step, dense
    place = rng.choice(PLACES)
    name = f"{step=} {dense=} {H=} {W=} {P=} {Q=} {channels=} {taps=} {first=} {count=} {place}"
    kept = some | (np.arange(room // SIZE)[:, None] >= k)
    return Job(name, kernel, arguments, 3, place), want.ravel(), kept.ravel()


@needs_masks
def test_pixels_are_gathered(rng):
    jobs, right, kept = zip(*(gathering(rng) for _ in range(150)), strict=True)
    for job, result, want, some in zip(jobs, call(jobs), right, kept, strict=True):
        np.testing.assert_array_equal(result[some], want[some], err_msg=job.name)
