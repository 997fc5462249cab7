"""How much of a core's caches a block may fill."""

from __future__ import annotations

from functools import lru_cache

from lowerconv.machine.topology import read_topology

L2_SHARE = 4  # two panels, the product, and what streams through: a quarter of L2 each
QUARTER_MAX = 256 * 1024  # bytes, however large L2 is: the workspace stays below 1 MiB per core


@lru_cache
def quarter_of_l2() -> int:
    """Return a quarter of a core's share of L2, at most `QUARTER_MAX`: the unit of block sizes."""
    topology = read_topology()
    shares = [
        cache.bytes // max(1, sum(1 for core in topology.cores if set(core) & set(cache.cpus)))
        for cache in topology.caches
        if cache.level == 2 and cache.kind != "instruction"
    ]
    return min(QUARTER_MAX, min(shares, default=topology.cache_bytes(2)) // L2_SHARE)
