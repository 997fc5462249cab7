"""Collectives on networks of many hosts: our simulation beside SimGrid's.

    apt-get install python3-simgrid
    python -m bench.simgrid [--hosts 16 64 864] [--networks torus fat-tree] [--collectives ring ...]

Both simulate the same messages, on networks with the same links.  SimGrid's model is CM02, where
messages take as much of a link as there is, and share it in inverse proportion to the latencies of
their routes; ours does so here, too.  Its run time is that of its
`run` alone, in a process of its own, with an actor for each rank; ours is all but numba's
compilation, which is kept on disk: schedule, routes and simulation.  Seconds are of CPU time.

Casanova, Giersch, Legrand, Quinson, Suter, "Versatile, scalable, and accurate simulation of
distributed applications and platforms" (2014).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

DEBIAN = "/usr/lib/python3/dist-packages"  # where python3-simgrid is
NETWORKS = {
    "torus": {16: "torus:4x2x2", 64: "torus:4x4x4", 864: "torus:12x9x8"},
    "fat-tree": {16: "fat-tree:4x4", 64: "fat-tree:4x4x4", 864: "fat-tree:12x9x8"},
}
SIZE = 2_500_000  # float32 of each rank: 10 MB
CONFIGURATION = (
    "network/model:CM02",
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "network/weight-S:0",
)


def ours(topology: Topology, name: str, form: str) -> tuple[Schedule, float, float]:
    """Return the schedule of a collective, when it ends, and how long that took to find."""
    begin = time.process_time()
    schedule = schedule_of(name, topology.hosts, SIZE, form=form)
    builder = GraphBuilder(topology, by_latency=True)
    done = schedule.add_to(builder, np.arange(topology.hosts))
    end = simulate(builder.build()).end[done].max()
    return schedule, float(end), time.process_time() - begin


def theirs(topology: Topology, schedule: Schedule, limit: float) -> tuple[float, float] | None:
    """Return when SimGrid's ends, and how long that took; None where it takes too long."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "schedule.npz"
        np.savez(path, **schedule._asdict())
        command = [sys.executable, "-m", "bench.simgrid", "--child", str(path)]
        described = {
            "shape": topology.shape,  # type: ignore[attr-defined]
            "is_tree": isinstance(topology, FatTree),
            "bandwidth": topology.bandwidth,
            "latency": topology.latency,
        }
        try:
            done = subprocess.run(
                [*command, json.dumps(described)],
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        raise SystemExit(f"SimGrid: {done.stderr[-2000:]}")
    end, seconds = json.loads(done.stdout.splitlines()[-1])
    return end, seconds


def child(path: str, described: str) -> None:
    """Simulate a schedule with SimGrid; print when it ends, and how long that took."""
    sys.path.append(DEBIAN)
    try:
        import simgrid
    except ImportError as error:
        raise SystemExit(
            f"{error}: install Debian's python3-simgrid, for the Python that this is"
        ) from None
    engine = simgrid.Engine(
        ["simgrid", *(f"--cfg={option}" for option in CONFIGURATION), "--log=root.thresh:error"]
    )
    hosts = cluster(simgrid, engine, json.loads(described))
    for rank, stages in enumerate(stages_of(Schedule(**np.load(path)))):
        simgrid.Actor.create(f"rank {rank}", hosts[rank], play, simgrid, stages)
    begin = time.process_time()
    engine.run()
    print(json.dumps([engine.clock, time.process_time() - begin]))


def play(simgrid: Any, stages: list[list[tuple[str, float]]]) -> None:
    """Do what one rank does: the messages of each stage at once, and then wait for them."""
    for messages in stages:
        under_way, kept = [], []
        for box, nbytes in messages:
            mailbox = simgrid.Mailbox.by_name(box)
            if nbytes:
                under_way.append(mailbox.put_async(box, round(nbytes)))
            else:
                message, place = mailbox.get_async()
                under_way.append(message)
                kept.append(place)  # where it is written
        simgrid.Comm.wait_all(under_way)


def stages_of(schedule: Schedule) -> list[list[list[tuple[str, float]]]]:
    """Return the messages of each rank, stage by stage: a mailbox, and bytes where it sends."""
    stages: list[list[tuple[str, float]]] = [[] for _ in schedule.added]
    for source, target, sends, receives, nbytes in zip(
        *(schedule.source.tolist(), schedule.target.tolist()),
        *(schedule.source_stage.tolist(), schedule.target_stage.tolist()),
        schedule.nbytes.tolist(),
        strict=True,
    ):
        box = f"{source} {target}"
        stages[receives].append((box, 0.0))
        stages[sends].append((box, nbytes))
    return [
        [messages for messages in stages[begin:end] if messages]
        for begin, end in zip(schedule.first, [*schedule.first[1:], len(stages)], strict=True)
    ]


def cluster(simgrid: Any, engine: Any, described: dict[str, Any]) -> list[Any]:
    """Return the hosts of a torus or a fat tree, in our order."""

    def host(zone: Any, position: Sequence[int], number: int) -> tuple[Any, None]:
        return zone.create_host(f"host-{number}", 1e9).netpoint, None

    def link(name: str, bandwidth: float) -> Any:
        return lambda zone, position, number: (
            zone.create_link(f"{name}-{number}", bandwidth).set_latency(0).seal()
        )

    callbacks = simgrid.ClusterCallbacks(host, link("memory", 1e10), link("limit", 1e18))
    shape = described["shape"][::-1]  # theirs begins with what is fastest
    rest = (
        callbacks,
        described["bandwidth"],
        described["latency"],
        simgrid.Link.SharingPolicy.SPLITDUPLEX,
    )
    if described["is_tree"]:
        parameters = simgrid.FatTreeParams(len(shape), shape, [1, *shape[:-1]], [1] * len(shape))
        zone = simgrid.NetZone.create_fatTree_zone("cluster", None, parameters, *rest)
    else:
        zone = simgrid.NetZone.create_torus_zone("cluster", None, shape, *rest)
    zone.seal()
    return sorted(engine.all_hosts, key=lambda host: int(host.name.split("-")[1]))


def main() -> None:
    """Print a row for each collective, network and number of hosts."""
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--hosts", type=int, nargs="+", default=[16, 64, 864], choices=[16, 64, 864]
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--collectives", nargs="+", default=list(COLLECTIVES), choices=list(COLLECTIVES)
    )
    parser.add_argument(
        "--form", choices=["full", "compact"], default="full", help="messages that both simulate"
    )
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds that SimGrid is given for each"
    )
    options = parser.parse_args()
    ours(parse_topology("torus:2x2"), "ring", "full")  # compiles
    table = Table(title=f"{options.form} collectives of {4 * SIZE / 1e6:g} MB", box=SIMPLE_HEAD)
    for title in ("network", "hosts", "collective"):
        table.add_column(title)
    for title in ("ms", "SimGrid's ms", "ratio", "run s", "SimGrid's run s", "times as fast"):
        table.add_column(title, justify="right")
    for kind in options.networks:
        for hosts in options.hosts:
            for name in options.collectives:
                topology = parse_topology(NETWORKS[kind][hosts])
                schedule, end, seconds = ours(topology, name, options.form)
                found = theirs(topology, schedule, options.limit)
                row = [kind, str(hosts), name, f"{1e3 * end:.3f}"]
                if found is None:
                    row += ["", "", f"{seconds:.3f}", f"above {options.limit:g}", ""]
                else:
                    row += [f"{1e3 * found[0]:.3f}", f"{end / found[0]:.4f}"]
                    row += [f"{seconds:.3f}", f"{found[1]:.2f}", f"{found[1] / seconds:.0f}"]
                table.add_row(*row)
                print(*row, file=sys.stderr, flush=True)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
