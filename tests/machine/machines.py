"""Machines made up or stored in ``trees/``, and the kernel file systems that would show them.

A machine is a dict of CPU lists as the kernel writes them: ``packages`` and ``nodes`` by number,
``cores`` (the SMT siblings of each), ``caches`` (each with its level, type, size, and ``shared``:
the CPUs of each one, or ``"core"`` if each core has its own), and where there is something to say
``capacities`` (CPUs by capacity), ``offline``, ``memory_kib`` (by node), ``affinity``,
``membership`` and ``groups`` (control groups).  A stored one may add to another, ``like`` it.
"""

import json
from dataclasses import replace
from functools import cache as cached
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import strategies as st

from lowerconv.machine.topology import (
    NumaNode,
    Package,
    Topology,
    format_cpu_list,
    parse_cpu_list,
    read_topology,
)

from .groups import write_groups

TREES = Path(__file__).parent / "trees"
MACHINES = sorted(path.stem for path in TREES.glob("*.json"))

L1_L2_L3 = {"1 Data": "48K core", "1 Instruction": "32K core", "2 Unified": "2048K core"} | {
    "3 Unified": "32768K node"
}


def stored(name):
    """Return a machine of ``trees/``."""
    described = json.loads((TREES / f"{name}.json").read_text())
    return (stored(described["like"]) if "like" in described else {}) | described


def machine(packages=1, nodes=1, cores=4, smt=1, caches=L1_L2_L3):
    """Make up a machine, numbered as Linux does on x86: one thread of every core, then the second.

    `nodes` counts per package, `cores` per node; `caches` maps "level type" to "size scope".
    """
    total = packages * nodes * cores

    def split(parts):
        size = total // parts
        return [
            format_cpu_list(t * total + i * size + c for t in range(smt) for c in range(size))
            for i in range(parts)
        ]

    shared = {"core": "core", "node": split(packages * nodes)}
    return {
        "packages": dict(enumerate(split(packages))),
        "nodes": dict(enumerate(split(packages * nodes))),
        "cores": split(total),
        "caches": [
            cache(*what.split(), size_scope.split()[0], shared[size_scope.split()[1]])
            for what, size_scope in caches.items()
        ],
    }


def cache(level, kind, size, shared):
    return {"level": int(level), "type": kind, "size": size, "shared": shared}


def write_sysfs(root, described):
    """Write what Linux shows of a machine; of offline CPUs it shows an almost empty directory."""
    offline = set(parse_cpu_list(described.get("offline", "")))
    online = [cpu for core in described["cores"] for cpu in parse_cpu_list(core)]
    online = sorted(set(online) - offline)

    def put(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def alive(cpus):
        return format_cpu_list(set(parse_cpu_list(cpus)) - offline)

    def list_of(cpu, lists):
        return next((alive(cpus) for cpus in lists if cpu in parse_cpu_list(cpus)), None)

    cpu_dir = root / "devices/system/cpu"
    put(cpu_dir / "online", format_cpu_list(online))
    for cpu in offline:
        put(cpu_dir / f"cpu{cpu}/online", 0)
    for cpu in online:
        mine = cpu_dir / f"cpu{cpu}"
        if cpu:  # Linux cannot switch CPU 0 off and shows no file for it
            put(mine / "online", 1)
        for number, cpus in described["packages"].items():
            if cpu in parse_cpu_list(cpus):
                put(mine / "topology/physical_package_id", number)
        put(mine / "topology/core_cpus_list", list_of(cpu, described["cores"]))
        for capacity, cpus in described.get("capacities", {}).items():
            if cpu in parse_cpu_list(cpus):
                put(mine / "cpu_capacity", capacity)
        index = 0
        for one in described["caches"]:
            lists = described["cores"] if one["shared"] == "core" else one["shared"]
            sharers = list_of(cpu, lists)
            if sharers is not None:
                put(mine / f"cache/index{index}/level", one["level"])
                put(mine / f"cache/index{index}/type", one["type"])
                put(mine / f"cache/index{index}/size", one["size"])
                put(mine / f"cache/index{index}/shared_cpu_list", sharers)
                index += 1
    for number, cpus in described["nodes"].items():
        node = root / f"devices/system/node/node{number}"
        put(node / "cpulist", alive(cpus))
        memory = described.get("memory_kib", {}).get(number)
        if memory is not None:
            put(node / "meminfo", f"Node {number} MemTotal: {memory:>14} kB")
    return root


def unfold(root, name):
    """Write all of a stored machine: its topology is ``read_topology(sysfs, usable=usable)``.

    Returns
    -------
    dict
        ``sysfs``, ``cgroup``, ``proc`` and ``usable``: the arguments of `usable_threads`.
    """
    described = stored(name)
    groups = described.get("membership", "0::/\n"), described.get("groups", {})
    all_cpus = ",".join(described["cores"])
    return {
        "sysfs": write_sysfs(root / "sys", described),
        **write_groups(root, *groups),
        "usable": parse_cpu_list(described.get("affinity", all_cpus)),
    }


@cached
def whole(name):
    """Return the topology of a stored machine, read once."""
    with TemporaryDirectory() as directory:
        paths = unfold(Path(directory), name)
        return read_topology(paths["sysfs"], usable=paths["usable"])


def part(topology, cpus):
    """Return what is left of a topology when only some of its CPUs may be used."""

    def left(group):
        return tuple(cpu for cpu in group if cpu in cpus)

    cores = sorted((left(core), i) for i, core in enumerate(topology.cores) if left(core))
    caches = [replace(c, cpus=left(c.cpus)) for c in topology.caches]
    return Topology(
        packages=tuple(Package(p.number, left(p.cpus)) for p in topology.packages if left(p.cpus)),
        numa_nodes=tuple(
            NumaNode(n.number, left(n.cpus)) for n in topology.numa_nodes if left(n.cpus)
        ),
        cores=tuple(core for core, _ in cores),
        caches=tuple(
            sorted((c for c in caches if c.cpus), key=lambda c: (c.level, c.kind, c.cpus))
        ),
        capacities=tuple(topology.capacities[i] for _, i in cores) if topology.capacities else (),
    )


@st.composite
def topologies(draw):
    """Draw a stored machine of which any CPUs may be used."""
    name = draw(st.sampled_from(MACHINES))
    cpus = whole(name).cpus
    if draw(st.booleans()):
        return whole(name)
    return part(whole(name), draw(st.sets(st.sampled_from(cpus), min_size=1)))


def core_of(topology):
    return {cpu: core for core in topology.cores for cpu in core}
