"""Sums of an array over all ranks: our algorithms beside the MPI library's, timed in turns.

    mpiexec -n P python -m bench.allreduce [--mib 16] [--rounds 5] [--gbit RATE] [--save FILE]
    python -m bench.hosts 3 --gbit 1 -- python -m bench.allreduce --gbit 1

A time is that of the slowest rank, the median of the rounds.  With ``--gbit`` each time is also
compared with the least that links of this rate allow, ``2 (p - 1) / p`` of the bytes out of each
rank (Patarasuk and Yuan, 2009).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lowerconv.bench.interleaved import median_ratio
from lowerconv.bench.load import Others
from lowerconv.bench.show import plural
from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.mpi_communicator import world

BLOCKING = "MPI_Allreduce"  # what everybody compares with


def bound(nbytes: int, ranks: int, gbit: float) -> float:
    """Return the least seconds of a sum over ranks on links of a rate in Gbit/s."""
    return 2 * (ranks - 1) / ranks * nbytes / (gbit * 1e9 / 8)


def candidates(communicator: Communicator, array: np.ndarray) -> dict[str, Callable[[], None]]:
    """Return what sums an array: the library's own call, and all of ours."""
    from mpi4py import MPI

    engine = communicator.engine()

    def ours(name: str) -> Callable[[], None]:
        return lambda: engine.run(lambda link: ALLREDUCE[name](link, array), name, array.nbytes)

    level = len(communicator.hosts) not in (1, communicator.ranks)
    names = [name for name in ALLREDUCE if name != "two-level" or level]
    return {
        BLOCKING: lambda: MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, array),
        **{name: ours(name) for name in names},
    }


def measure(communicator: Communicator, nbytes: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each candidate took on the slowest rank, round by round."""
    rng = np.random.default_rng(communicator.rank)
    drawn = rng.standard_normal(nbytes // 4, np.float32)
    array = drawn.copy()
    runs = candidates(communicator, array)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            array[:] = drawn
            communicator.gather(None)
            begin = time.perf_counter()
            run()
            seconds = max(communicator.gather(time.perf_counter() - begin))
            if number:  # the first opens connections, and takes memory
                taken[name].append(seconds)
    return taken


def table_of(result: dict[str, Any]) -> Table:
    """Return a row for each algorithm, the fastest first."""
    nbytes, ranks, gbit = result["bytes"], result["ranks"], result["gbit"]
    hosts = plural(result["hosts"], "host")
    table = Table(
        title=f"{nbytes / 2**20:.3g} MiB of float32, {plural(ranks, 'rank')} on {hosts}"
        + (f" with links of {gbit:g} Gbit/s" if gbit else ""),
        caption=f"{result['library']}; speed-up: time of {BLOCKING} / time",
        box=SIMPLE_HEAD,
    )
    table.add_column("algorithm")
    for title in ("ms", "best", "Gbit/s", "speed-up", *(["% of bound"] if gbit else [])):
        table.add_column(title, justify="right")
    rows = sorted(result["seconds"].items(), key=lambda row: statistics.median(row[1]))
    for name, taken in rows:
        seconds = statistics.median(taken)
        cells = [
            name,
            f"{1e3 * seconds:,.2f}",
            f"{1e3 * min(taken):,.2f}",
            f"{bound(nbytes, ranks, 1.0) / seconds:.3f}",
            f"{median_ratio(result['seconds'][BLOCKING], taken):.2f}",
        ]
        if gbit:
            cells.append(f"{bound(nbytes, ranks, gbit) / seconds:.0%}")
        table.add_row(*cells)
    return table


def main() -> None:
    """Measure, and print a table on rank 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.allreduce",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--mib", type=float, default=16.0, help="of the array (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--gbit", type=float, help="rate of the links, to compare with")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all times as JSON")
    options = parser.parse_args()
    communicator = world()
    if communicator.ranks == 1:
        sys.exit("bench.allreduce: got 1 rank, expected several: mpiexec -n 2 ...")
    nbytes = int(options.mib * 2**18) * 4
    others = Others()
    taken = measure(communicator, nbytes, options.rounds)
    result = {
        "command": sys.argv[1:],
        "bytes": nbytes,
        "ranks": communicator.ranks,
        "hosts": len(communicator.hosts),
        "library": communicator.describe(),
        "gbit": options.gbit,
        "others": others.cores(),
        "seconds": taken,
    }
    if communicator.rank == 0:
        Console(width=100, markup=False, highlight=False, color_system=None).print(table_of(result))
        if options.save:
            options.save.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
