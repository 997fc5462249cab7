"""Collectives on networks of many hosts: our simulation beside SimGrid's.

    apt-get install libsimgrid-dev g++
    python -m bench.simgrid [--hosts 16 64 864] [--networks torus fat-tree] [--collectives ring ...]

SimGrid simulates every message that the engine sends, through its C++ interface, with an actor for
each rank (simgrid.cpp).  Ours does so too ("all"), and once more with compact forms where there are
such ("compact").  SimGrid's model is CM02, where messages take as much of a link as there is, and
share it in inverse proportion to the latencies of their routes; ours does so here, too.  "equal" is
how long ours takes where all messages have the same share, as it does without being told.

Run times are CPU time.  SimGrid's is that of its `run` alone.  Ours has all from the name of the
collective on, without numba's compilation, which is kept on disk; it is the best of three.

Casanova, Giersch, Legrand, Quinson, Suter, "Versatile, scalable, and accurate simulation of
distributed applications and platforms" (2014).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lowerconv.predict.network.collectives import COLLECTIVES, schedule_of
from lowerconv.predict.network.fat_tree import FatTree
from lowerconv.predict.network.flows import simulate
from lowerconv.predict.network.graph import GraphBuilder
from lowerconv.predict.network.schedule import Schedule
from lowerconv.predict.network.text import parse_topology
from lowerconv.predict.network.topology import Topology

NETWORKS = {
    "torus": {16: "torus:4x2x2", 64: "torus:4x4x4", 864: "torus:12x9x8"},
    "fat-tree": {16: "fat-tree:4x4", 64: "fat-tree:4x4x4", 864: "fat-tree:12x9x8"},
}
SIZE = 2_500_000  # float32 of each rank: 10 MB
ROUNDS = 3
LONG = 2.0  # seconds: what takes longer is not done again
CONFIGURATION = (
    "network/model:CM02",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/weight-S:0",
    "contexts/stack-size:64",
)


class Simulated(NamedTuple):
    """When a collective ends, and how long it took to find out; seconds."""

    end: float
    run: float


def ours(topology: Topology, name: str, form: str, by_latency: bool = True) -> Simulated:
    """Return what our simulation gives."""
    runs: list[float] = []
    while len(runs) < ROUNDS and sum(runs) < LONG:
        begin = time.process_time()
        schedule = schedule_of(name, topology.hosts, SIZE, form=form)
        builder = GraphBuilder(topology, by_latency=by_latency)
        done = schedule.add_to(builder, np.arange(topology.hosts))
        end = simulate(builder.build()).end[done].max()
        runs.append(time.process_time() - begin)
    return Simulated(float(end), min(runs))


def theirs(program: Path, topology: Topology, schedule: Schedule) -> Simulated:
    """Return what SimGrid gives."""
    case = program.with_name("case")
    write_case(case, topology, schedule)
    options = [f"--cfg={option}" for option in CONFIGURATION]
    command = [str(program), str(case), *options, "--log=root.thresh:error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"SimGrid: {done.stderr[-2000:]}")
    return Simulated(*map(float, done.stdout.split()))


def write_case(path: Path, topology: Topology, schedule: Schedule) -> None:
    """Write a collective as simgrid.cpp reads it."""
    stages: list[list[str]] = [[] for _ in schedule.added]
    mailboxes: dict[tuple[int, int], int] = {}
    for source, target, sends, receives, nbytes in zip(
        schedule.source.tolist(),
        schedule.target.tolist(),
        schedule.source_stage.tolist(),
        schedule.target_stage.tolist(),
        schedule.nbytes.tolist(),
        strict=True,
    ):
        mailbox = mailboxes.setdefault((source, target), len(mailboxes))
        stages[receives].append(f"{mailbox} 0")
        stages[sends].append(f"{mailbox} {nbytes:.0f}")
    shape = topology.shape[::-1]  # type: ignore[attr-defined]
    kind = "fat-tree" if isinstance(topology, FatTree) else "torus"
    with path.open("w") as file:
        print(kind, len(shape), *shape, topology.bandwidth, topology.latency, file=file)
        print(topology.hosts, len(mailboxes), file=file)
        for first, last in zip(schedule.first, schedule.last, strict=True):
            print(last - first, file=file)
            for stage in stages[first:last]:
                print(len(stage), *stage, file=file)


def main() -> None:
    """Print a row for each collective, network and number of hosts."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    hosts = [16, 64, 864]
    parser.add_argument("--hosts", type=int, nargs="+", default=hosts, choices=hosts)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--collectives", nargs="+", default=list(COLLECTIVES), choices=list(COLLECTIVES)
    )
    options = parser.parse_args()
    ours(parse_topology("torus:2x2"), "ring", "full")  # compiles
    table = Table(title=f"Collectives of {4 * SIZE / 1e6:g} MB", box=SIMPLE_HEAD)
    for title in ("network", "hosts", "collective"):
        table.add_column(title, no_wrap=True)
    for title in ("SimGrid ms", "all", "compact", "equal", "SimGrid s", "all s", "compact s"):
        table.add_column(title, justify="right")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "simgrid"
        source = Path(__file__).with_suffix(".cpp")
        compiler = ["g++", "-O2", "-std=c++17", str(source), "-lsimgrid", "-o", str(program)]
        subprocess.run(compiler, check=True)
        for kind in options.networks:
            for count in options.hosts:
                topology = parse_topology(NETWORKS[kind][count])
                for name in options.collectives:
                    row = [kind, str(count), name, *cells(program, topology, name)]
                    table.add_row(*row)
                    print(*row, file=sys.stderr, flush=True)
    Console(width=110).print(table)


def cells(program: Path, topology: Topology, name: str) -> list[str]:
    """Return SimGrid's time and ours over it, and how long they took to find."""
    schedule = schedule_of(name, topology.hosts, SIZE, form="full")
    peer = theirs(program, topology, schedule)
    whole, compact = (ours(topology, name, form) for form in ("full", "compact"))
    equal = ours(topology, name, "compact", by_latency=False)
    ends = [f"{found.end / peer.end:.4f}" for found in (whole, compact, equal)]
    runs = [f"{found.run:.3g}" for found in (peer, whole, compact)]
    return [f"{1e3 * peer.end:.3f}", *ends, *runs]


if __name__ == "__main__":
    main()
