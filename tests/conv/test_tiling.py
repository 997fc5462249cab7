"""The register tiles that are chosen: a layer of each kind, on each instruction set.

A change of `Isa.rows`, of costs or of the search shows here, and is to be written down here.
"""

import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.codegen.microkernel import rows_max
from lowerconv.conv.phases import convolution
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.tiling import tilings

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
