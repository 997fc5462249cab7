"""What each type of numbers gives on one core: the peak of its multiply-adds, and register tiles.

python -m bench.types [--isa avx512+avx512vnni] [--k 256] [--rounds 10]

The peak of `lowerconv.bench.microkernels`, and beside it the best of the largest register tiles.
They take turns; the best of all rounds counts.
"""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from lowerconv.bench.microkernels import TYPES, K, chains, rates, tile, tile_sizes
from lowerconv.codegen.isa import ISAS, host_isa_extended


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each type."""
    parser = argparse.ArgumentParser(prog="python -m bench.types", description=__doc__)
    parser.add_argument("--isa", help="with its extensions; default: all that this CPU has")
    parser.add_argument("--k", type=int, default=K, help="steps of a tile")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(arguments)
    isa = host_isa_extended()
    if options.isa:
        name, *extensions = options.isa.split("+")
        isa = ISAS[name].extended(*extensions)
    table = Table("type", "peak Gop/s", "tile", "Gop/s", "share", title=isa.name)
    for name, words in TYPES.items():
        sizes = tile_sizes(isa, words)
        loops = [tile(isa, words, *size, options.k) for size in sizes]
        peak, *each = rates([chains(isa, words), *loops], options.rounds)
        best = max(range(len(each)), key=each.__getitem__)
        row = f"{peak / 1e9:.0f}", "{} x {}".format(*sizes[best]), f"{each[best] / 1e9:.0f}"
        table.add_row(name, *row, f"{each[best] / peak:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
