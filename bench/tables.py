"""Comparisons as tables: a row per layer, and a row per table at the end.

All ratios are the time of the other one over our time: above 1 we are faster.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench.candidates import Setting
from bench.peers import NEEDS as PEERS
from lowerconv.bench.case import REFERENCE
from lowerconv.bench.interleaved import geometric_mean, median_ratio
from lowerconv.bench.load import DISTURBED

LARGE, NEAR_PEAK = 50e6, 0.92  # FLOP of a call; share of the FMA peak that large ones should reach
BEST = "best peer"
TITLES = {
    "torch_nchw": "PT NCHW",
    "torch_channels_last": "PT NHWC",
    "onnxruntime": "ORT",
}


@dataclass(frozen=True)
class Row:
    """Times of a pass of a layer, ours first; `others` are the cores that other processes used."""

    network: str
    at: Setting
    op: str
    layer: str
    flops: int
    peak: float
    others: float
    taken: dict[str, list[float]]

    @property
    def ours(self) -> str:
        """Name of the algorithm that all others are compared with."""
        return next(iter(self.taken))

    @property
    def speed(self) -> float:
        """Our FLOP/s, in the median."""
        return self.flops / statistics.median(self.taken[self.ours])

    @property
    def best_peer(self) -> str | None:
        """The peer of the least median time."""
        there = [name for name in self.taken if name in PEERS]
        return min(there, key=lambda name: statistics.median(self.taken[name]), default=None)

    def ratio(self, name: str) -> float | None:
        """Return the time of another, or of the best peer, over ours; None where there is none."""
        other = self.best_peer if name == BEST else name
        if other not in self.taken:
            return None
        return median_ratio(self.taken[other], self.taken[self.ours])

    def record(self) -> dict[str, Any]:
        """Return what is saved."""
        return {
            "network": self.network,
            "threads": self.at.threads,
            "batch": self.at.batch,
            "pass": self.op,
            "layer": self.layer,
            "flops": self.flops,
            "peak": self.peak,
            "others": self.others,
            "best_peer": self.best_peer,
            "ratios": {name: self.ratio(name) for name in list(self.taken)[1:]},
            "seconds": self.taken,
        }


def _references(rows: Sequence[Row]) -> list[str]:
    """Return whom the tables compare with: not every peer has a column."""
    there = dict.fromkeys(name for row in rows for name in list(row.taken)[1:])
    peers = [BEST] if any(name in PEERS for name in there) else []
    shown = [name for name in there if name == "torch_nchw" or name not in PEERS]
    # PyTorch as most people have it, then lowering, then other algorithms.
    return peers + sorted(shown, key=lambda name: (name != "torch_nchw", name != REFERENCE))


def _ratios(rows: Sequence[Row], name: str) -> list[tuple[float, str]]:
    """Return the ratios to `name`, with their layers, where there are any."""
    return [(ratio, row.layer) for row in rows if (ratio := row.ratio(name)) is not None]


def _caption(references: Sequence[str]) -> str:
    legend = "PT: PyTorch, ORT: ONNX Runtime" if BEST in references else ""
    return "; ".join(filter(None, ["ratios: time of the other / our time", legend]))


def _disturbance(rows: Sequence[Row]) -> str:
    names = [row.layer for row in rows if row.others > DISTURBED]
    return f"\nmeasure again, other processes were at work during: {', '.join(names)}" * bool(names)


def layer_table(rows: Sequence[Row]) -> Table:
    """Return the table of one network, setting and pass."""
    row = rows[0]
    references = _references(rows)
    table = Table(
        title=f"{row.network}, {row.at}, {row.op}: {row.ours} "
        f"(100% of peak: {row.peak / 1e9:.0f} GFLOP/s)",
        caption=_caption(references) + _disturbance(rows),
        box=SIMPLE_HEAD,
    )
    table.add_column("layer", no_wrap=True)
    for title in ("MFLOP", "GFLOP/s", "% peak", *(TITLES.get(name, name) for name in references)):
        table.add_column(title, justify="right", overflow="fold")

    def cell(row: Row, name: str) -> str:
        who = f" {TITLES[row.best_peer]}" if name == BEST and row.best_peer else ""
        return f"{row.ratio(name):.2f}{who}"

    for row in rows:
        table.add_row(
            row.layer,
            f"{row.flops / 1e6:,.0f}",
            f"{row.speed / 1e9:.0f}",
            f"{100 * row.speed / row.peak:.0f}",
            *(cell(row, name) for name in references),
        )
    table.add_section()
    shares = [(row.speed / row.peak, row.layer) for row in rows]
    columns = [_ratios(rows, name) for name in references]
    table.add_row(
        "geometric mean",
        "",
        f"{geometric_mean([row.speed for row in rows]) / 1e9:.0f}",
        f"{100 * geometric_mean([share for share, _ in shares]):.0f}",
        *(f"{geometric_mean([ratio for ratio, _ in column]):.2f}" for column in columns),
    )
    share, slowest = min(shares)
    table.add_row(
        "worst layer",
        "",
        "",
        f"{100 * share:.0f}\n{slowest}",
        *(f"{ratio:.2f}\n{layer}" for ratio, layer in map(min, columns)),
    )
    return table


def summary_table(rows: Sequence[Row]) -> Table:
    """Return a row for each network, setting and pass; with several networks also all together."""
    references = _references(rows)
    table = Table(
        title="geometric mean (worst layer)",
        caption=_caption(references)
        + f"\nat: threads,batch; peak: layers above {LARGE / 1e6:.0f} MFLOP that reach "
        f"{NEAR_PEAK:.0%} of it",
        box=SIMPLE_HEAD,
    )
    for title in ("network", "at", "pass"):
        table.add_column(title, no_wrap=True)
    for title in (*(TITLES.get(name, name) for name in references), "peak"):
        table.add_column(title, justify="right", overflow="fold")

    def add(network: str, group: Sequence[Row]) -> None:
        cells = []
        for name in references:
            ratios = [ratio for ratio, _ in _ratios(group, name)]  # ONNX Runtime has no gradients
            text = f"{geometric_mean(ratios):.2f} ({min(ratios):.2f})" if ratios else "-"
            cells.append(text)
        large = [row for row in group if row.flops > LARGE]
        near = sum(row.speed >= NEAR_PEAK * row.peak for row in large)
        cells.append(f"{near} of {len(large)}")
        table.add_row(network, f"{group[0].at.threads},{group[0].at.batch}", group[0].op, *cells)

    for network, group in _groups(rows, lambda row: (row.network, row.at, row.op)):
        add(network[0], group)
    if len({row.network for row in rows}) > 1:
        table.add_section()
        for _, group in _groups(rows, lambda row: (row.at, row.op)):
            add("all", group)
    return table


def _groups(rows: Sequence[Row], key: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.items())
