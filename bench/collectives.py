"""Simulated sums of gradients on a described network: seconds, and what it takes to find them.

    python -m bench.collectives torus:12x9x8 --algorithm ring halving-doubling --buckets 8
    python -m bench.collectives torus:48x45x47 --ranks 100000 --algorithm halving-doubling \\
        --buckets 1 --resolution 0.3

All ranks have all buckets at the start of the step; two sums are under way at a time.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from lowerconv.predict.network.buckets import Bucket, sum_buckets
from lowerconv.predict.network.collectives import COLLECTIVES
from lowerconv.predict.network.flows import RESOLUTION
from lowerconv.predict.network.text import parse_topology


def main() -> None:
    """Print a line for each algorithm."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("topology", help="such as switch:64, fat-tree:16x8, torus:8x8x8")
    parser.add_argument("--ranks", type=int, help="by default one on each host")
    parser.add_argument("--algorithm", nargs="+", default=["ring"], choices=list(COLLECTIVES))
    parser.add_argument("--buckets", type=int, default=8)
    parser.add_argument("--megabytes", type=float, default=10, help="of each bucket")
    parser.add_argument("--resolution", type=float, default=RESOLUTION)
    options = parser.parse_args()
    topology = parse_topology(options.topology)
    hosts = np.arange(options.ranks or topology.hosts)
    buckets = [Bucket(round(options.megabytes * 250_000), 0.0)] * options.buckets
    small = parse_topology("torus:2x2")
    sum_buckets(small, buckets[:1], "ring")  # compiles, which numba's code on disk spares others
    for name in options.algorithm:
        begin = time.process_time()
        end = sum_buckets(topology, buckets, name, hosts=hosts, resolution=options.resolution)
        run = time.process_time() - begin
        mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{options.topology}, {hosts.size} ranks, "
            f"{options.buckets} x {options.megabytes:g} MB, {name}: "
            f"{1e3 * end.max():.3f} ms; simulated in {run:.2f} s of CPU time, "
            f"{mebibytes:.0f} MiB at most",
            flush=True,
        )


if __name__ == "__main__":
    main()
