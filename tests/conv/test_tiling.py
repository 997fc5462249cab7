"""The register tiles that are chosen: a layer of each kind, on each instruction set.

A change of `Isa.rows`, of costs or of the search shows here, and is to be written down here.
"""

import random

import numpy as np
import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.microkernel import rows_max
from lowerconv.conv import phases, schedule, tiling
from lowerconv.conv.phases import convolution
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.tiling_search import tilings

SEED = random.randrange(2**32)

# What fills the vectors, filters of a panel, and (rows, columns) of pixels of a tile.
CHOSEN = {
    "3x3": {
        "avx512": ("filters", 32, (1, 14)),
        "avx2": ("filters", 16, (1, 6)),
        "sse": ("filters", 8, (1, 6)),
        "sve512": ("filters", 32, (1, 10)),
        "sve256": ("filters", 16, (1, 10)),
        "neon": ("filters", 12, (1, 7)),
        "generic": ("filters", 8, (1, 4)),
    },
    "1x1": {
        "avx512": ("filters", 48, (1, 9)),
        "avx2": ("filters", 16, (1, 6)),
        "sse": ("pixels", 6, (1, 8)),
        "sve512": ("filters", 48, (1, 8)),
        "sve256": ("filters", 24, (1, 8)),
        "neon": ("pixels", 8, (1, 12)),
        "generic": ("filters", 8, (1, 4)),
    },
}
LAYERS = {
    "3x3": conv_problem((1, 96, 28, 28), (128, 96, 3, 3), 1, 1),
    "1x1": conv_problem((1, 480, 14, 14), (192, 480, 1, 1)),
}


@pytest.mark.parametrize("layer", CHOSEN)
@pytest.mark.parametrize("name", ISAS)
def test_the_cheapest_tile(layer, name):
    cheapest = tilings(convolution(LAYERS[layer], "forward"), ISAS[name], False)[0]
    assert (cheapest.vectors, cheapest.NR, cheapest.shapes[0]) == CHOSEN[layer][name]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ISAS)
def test_it_fits_the_registers(layer, name):
    isa = ISAS[name]
    VL = isa.lanes(LAYERS[layer].dtype)
    tiling = tilings(convolution(LAYERS[layer], "forward"), isa, False)[0]
    for TH, TW in tiling.shapes:
        if tiling.vectors == "filters":
            assert rows_max(isa, tiling.NR // VL) >= TH * TW
        else:
            assert rows_max(isa, TH * -(-TW // VL)) >= tiling.NR


def random_problem(rng):
    """Return a problem that is nothing in particular."""
    while True:
        groups, channels = rng.choice((1, 1, 2)), rng.choice((1, 3, 64, 96))
        filters = rng.choice((1, 5, 16, 24, 100))
        taps = rng.choice(((1, 1), (3, 3), (2, 2), (1, 7), (5, 4)))
        most = rng.choice((3, 30, 300))
        try:
            return conv_problem(
                (rng.randint(1, 3), channels * groups, rng.randint(1, most), rng.randint(1, most)),
                (filters * groups, channels, *taps),
                (rng.randint(1, 3), rng.randint(1, 5)),
                rng.randint(0, 4),
                rng.randint(1, 3),
                groups,
                np.dtype(rng.choice(("float32", "float64"))),
            )
        except ValueError:  # the filters are larger than the images
            continue


def forget():
    """Clear all that decisions keep."""
    for module in (phases, schedule, tiling):
        for value in vars(module).values():
            if hasattr(value, "cache_clear") and value.__module__ == module.__name__:
                value.cache_clear()


def test_what_is_kept_changes_no_decision():
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    asked = [
        (random_problem(rng), rng.choice(("forward", "input_grad")), rng.random() < 0.5)
        for _ in range(60)
    ]
    threads = (0,) * rng.randint(1, 8)

    def decide(problem, op, constant, isa):
        conv = convolution(problem, op)
        found = tilings(conv, isa, constant)
        return found, make_schedule(conv, isa, threads, found[0], constant)

    kept = {(*each, isa): decide(*each, isa) for each in asked for isa in ISAS.values()}
    for each, decided in kept.items():
        forget()
        assert decide(*each) == decided


@pytest.mark.parametrize("reads_padding", [False, True])
def test_live_taps_are_counted_as_they_are_listed(reads_padding, monkeypatch):
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    if reads_padding:
        monkeypatch.setattr(phases.Convolution, "reads_padding", True)
    for _ in range(200):
        conv = convolution(random_problem(rng), rng.choice(("forward", "input_grad")))
        for phase in conv.phases:
            TH = rng.randint(1, phase.P)
            live = conv.C * tiling.live_taps(conv, phase, TH).sum(axis=1)
            whole, last = (len(live) - 1, live[:-1].sum()), (1, live[-1])
            assert tiling.row_steps(conv, phase, TH) == (whole, last)
