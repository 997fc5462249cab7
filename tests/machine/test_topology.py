"""Topologies read from made-up kernel file systems: no test sees the real machine."""

import os
import pickle
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowerconv.machine import topology as topology_module
from lowerconv.machine.topology import (
    ASSUMED_CACHE_BYTES,
    Cache,
    format_cpu_list,
    online_cpus,
    parse_cpu_list,
    read_topology,
    usable_cpus,
    usable_threads,
)

from .groups import write_groups

KIB = 1024
L1_L2_L3 = {"1 Data": "48K core", "1 Instruction": "32K core", "2 Unified": "2048K core"} | {
    "3 Unified": "32768K node"
}


@dataclass(frozen=True)
class Cpu:
    """One line of a made-up machine: where a CPU sits, and "level type" -> "size scope" caches."""

    number: int
    package: int
    node: int
    core: int
    caches: tuple[tuple[str, str], ...] = ()


def machine(packages=1, nodes=1, cores=4, smt=1, caches=L1_L2_L3):
    """Number the CPUs as Linux does on x86: first one thread of every core, then the second ones.

    `nodes` counts per package, `cores` per node.
    """
    total = packages * nodes * cores
    return [
        Cpu(
            number=thread * total + core,
            package=core // (nodes * cores),
            node=core // cores,
            core=core,
            caches=tuple(caches.items()),
        )
        for thread in range(smt)
        for core in range(total)
    ]


def write_sysfs(root, cpus, offline=(), numa=True):
    """Write what Linux shows of these CPUs; of offline ones it shows an almost empty directory."""
    online = [cpu for cpu in cpus if cpu.number not in offline]

    def put(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def sharing(cpu, scope):
        mine = getattr(cpu, scope)
        return format_cpu_list(c.number for c in online if getattr(c, scope) == mine)

    cpu_dir = root / "devices/system/cpu"
    put(cpu_dir / "online", format_cpu_list(cpu.number for cpu in online))
    for number in offline:
        put(cpu_dir / f"cpu{number}/online", 0)
    for cpu in online:
        mine = cpu_dir / f"cpu{cpu.number}"
        if cpu.number:  # Linux cannot switch CPU 0 off and shows no file for it
            put(mine / "online", 1)
        put(mine / "topology/physical_package_id", cpu.package)
        put(mine / "topology/core_cpus_list", sharing(cpu, "core"))
        for index, (what, size_scope) in enumerate(cpu.caches):
            level, kind = what.split()
            size, scope = size_scope.split()
            put(mine / f"cache/index{index}/level", level)
            put(mine / f"cache/index{index}/type", kind)
            put(mine / f"cache/index{index}/size", size)
            put(mine / f"cache/index{index}/shared_cpu_list", sharing(cpu, scope))
    for node in {cpu.node for cpu in cpus} if numa else ():
        members = [cpu.number for cpu in online if cpu.node == node]
        put(root / f"devices/system/node/node{node}/cpulist", format_cpu_list(members))
    return root


def cpus_of(groups):
    return {group.number: format_cpu_list(group.cpus) for group in groups}


class TestCpuLists:
    @pytest.mark.parametrize(
        ("text", "cpus"),
        [
            ("0-3,8,10-11\n", (0, 1, 2, 3, 8, 10, 11)),
            ("5", (5,)),
            ("\n", ()),
            ("", ()),
            ("7,0-1,1", (0, 1, 7)),
        ],
    )
    def test_read(self, text, cpus):
        assert parse_cpu_list(text) == cpus

    @pytest.mark.parametrize("text", ["a", "1,,2", "3-1", "1-", "-1", "1-2-3", "0x3", "1;2"])
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ValueError, match="CPU list"):
            parse_cpu_list(text)

    @given(st.sets(st.integers(0, 300)))
    def test_written_and_read_back(self, cpus):
        assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))

    def test_written_as_the_kernel_does(self):
        assert format_cpu_list([11, 0, 1, 2, 3, 8, 10]) == "0-3,8,10-11"


class TestMachines:
    def test_one_socket(self, tmp_path):
        found = read_topology(write_sysfs(tmp_path, machine(cores=4)), usable=range(4))
        assert cpus_of(found.packages) == {0: "0-3"}
        assert cpus_of(found.numa_nodes) == {0: "0-3"}
        assert found.cores == ((0,), (1,), (2,), (3,))
        assert found.cpus == (0, 1, 2, 3)
        assert [c for c in found.caches if c.level == 3] == [
            Cache(3, "unified", 32768 * KIB, (0, 1, 2, 3))
        ]
        assert [c.cpus for c in found.caches if c.kind == "data"] == [(0,), (1,), (2,), (3,)]
        assert [found.cache_bytes(level) for level in (1, 2, 3, 4)] == [
            *(48 * KIB, 2048 * KIB, 32768 * KIB, 0)
        ]
        assert not any(found.cache_assumed(level) for level in (1, 2, 3, 4))

    def test_two_sockets_with_smt(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(packages=2, cores=3, smt=2))
        found = read_topology(sysfs, usable=range(12))
        assert cpus_of(found.packages) == {0: "0-2,6-8", 1: "3-5,9-11"}
        assert cpus_of(found.numa_nodes) == {0: "0-2,6-8", 1: "3-5,9-11"}
        assert found.cores == ((0, 6), (1, 7), (2, 8), (3, 9), (4, 10), (5, 11))
        assert {c.cpus for c in found.caches if c.level == 2} == set(found.cores)

    def test_sub_numa_clusters(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(packages=2, nodes=2, cores=2))
        found = read_topology(sysfs, usable=range(8))
        assert cpus_of(found.packages) == {0: "0-3", 1: "4-7"}
        assert cpus_of(found.numa_nodes) == {0: "0-1", 1: "2-3", 2: "4-5", 3: "6-7"}
        assert [c.cpus for c in found.caches if c.level == 3] == [(0, 1), (2, 3), (4, 5), (6, 7)]

    def test_big_little_counts_the_smallest_cache(self, tmp_path):
        little = (("1 Data", "32K core"), ("2 Unified", "128K core"))
        big = (("1 Data", "64K core"), ("2 Unified", "512K core"))
        cpus = [Cpu(i, 0, 0, i, little if i < 4 else big) for i in range(6)]
        found = read_topology(write_sysfs(tmp_path, cpus), usable=range(6))
        assert (found.cache_bytes(1), found.cache_bytes(2)) == (32 * KIB, 128 * KIB)
        bound_to_big = read_topology(tmp_path, usable=(4, 5))
        assert (bound_to_big.cache_bytes(1), bound_to_big.cache_bytes(2)) == (64 * KIB, 512 * KIB)

    def test_cores_with_and_without_smt_in_one_package(self, tmp_path):
        cpus = [Cpu(i, 0, 0, core) for i, core in enumerate([0, 0, 1, 1, 2, 3])]
        found = read_topology(write_sysfs(tmp_path, cpus), usable=range(6))
        assert found.cores == ((0, 1), (2, 3), (4,), (5,))

    def test_virtual_machine_without_caches(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(cores=2, caches={}))
        found = read_topology(sysfs, usable=range(2))
        assert found.caches == ()
        for level, assumed in ASSUMED_CACHE_BYTES.items():
            assert found.cache_bytes(level) == assumed
            assert found.cache_assumed(level)
        assert (found.cache_bytes(4), found.cache_assumed(4)) == (0, False)

    def test_no_third_level_is_not_assumed_where_the_lower_ones_are_known(self, tmp_path):
        caches = {"1 Data": "64K core", "2 Unified": "1M node"}
        found = read_topology(write_sysfs(tmp_path, machine(caches=caches)), usable=range(4))
        assert found.cache_bytes(2) == 1024 * KIB
        assert (found.cache_bytes(3), found.cache_assumed(3)) == (0, False)

    def test_gap_in_the_second_level_is_assumed(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(caches={"1 Data": "64K core"}))
        found = read_topology(sysfs, usable=range(4))
        assert (found.cache_assumed(1), found.cache_assumed(2)) == (False, True)

    def test_no_node_directory(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(packages=2, cores=2), numa=False)
        assert cpus_of(read_topology(sysfs, usable=range(4)).numa_nodes) == {0: "0-3"}

    def test_memory_only_node_is_left_out(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(cores=2))
        (sysfs / "devices/system/node/node1").mkdir()
        (sysfs / "devices/system/node/node1/cpulist").write_text("\n")
        assert cpus_of(read_topology(sysfs, usable=range(2)).numa_nodes) == {0: "0-1"}

    def test_cpu_of_no_node_joins_the_first(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(packages=2, cores=2))
        (sysfs / "devices/system/node/node1/cpulist").write_text("3\n")
        assert cpus_of(read_topology(sysfs, usable=range(4)).numa_nodes) == {0: "0-2", 1: "3"}

    def test_offline_cores_are_left_out(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(cores=4, smt=2), offline=(3, 5, 7))
        found = read_topology(sysfs, usable=range(8))
        assert found.cores == ((0, 4), (1,), (2, 6))
        assert cpus_of(found.packages) == {0: "0-2,4,6"}
        assert online_cpus(sysfs) == (0, 1, 2, 4, 6)

    def test_restricted_affinity_cuts_everything_down(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(packages=2, cores=4, smt=2))
        found = read_topology(sysfs, usable=(13, 5, 6))
        assert cpus_of(found.packages) == {1: "5-6,13"}
        assert cpus_of(found.numa_nodes) == {1: "5-6,13"}
        assert found.cores == ((5, 13), (6,))
        assert [c.cpus for c in found.caches if c.level == 3] == [(5, 6, 13)]
        assert {c.cpus for c in found.caches if c.level == 1} == {(5, 13), (6,)}

    def test_affinity_mask_counts_where_a_container_hides_the_cpus(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(cores=8))
        (sysfs / "devices/system/cpu/online").write_text("0-1\n")
        assert read_topology(sysfs, usable=(6, 7)).cores == ((6,), (7,))

    def test_siblings_under_their_old_name(self, tmp_path):
        sysfs = write_sysfs(tmp_path, machine(cores=2, smt=2))
        for file in list(sysfs.rglob("core_cpus_list")):
            file.rename(file.with_name("thread_siblings_list"))
        assert read_topology(sysfs, usable=range(4)).cores == ((0, 2), (1, 3))

    @pytest.mark.parametrize("text", ["", "nonsense", "-1", "0-", "99999999999999999999-1"])
    @pytest.mark.parametrize("name", ["core_cpus_list", "physical_package_id", "cpulist", "size"])
    def test_garbage_counts_as_missing(self, tmp_path, name, text):
        sysfs = write_sysfs(tmp_path, machine(cores=2))
        for file in list(sysfs.rglob(name)):
            file.write_text(text)
        found = read_topology(sysfs, usable=range(2))
        assert found.cores == ((0,), (1,))
        assert cpus_of(found.packages) == {0: "0-1"}
        assert cpus_of(found.numa_nodes) == {0: "0-1"}
        assert all(cache.bytes > 0 for cache in found.caches)

    def test_no_sysfs_at_all(self, tmp_path, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 6)
        found = read_topology(tmp_path / "none")
        assert found.cores == tuple((cpu,) for cpu in range(6))
        assert cpus_of(found.packages) == cpus_of(found.numa_nodes) == {0: "0-5"}
        assert found.cache_bytes(1) == 32 * KIB
        assert online_cpus(tmp_path / "none") == tuple(range(6))

    def test_no_usable_cpu_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="at least one CPU"):
            read_topology(tmp_path, usable=())

    def test_can_be_sent_and_used_as_a_key(self, tmp_path):
        found = read_topology(write_sysfs(tmp_path, machine()), usable=range(4))
        assert {found: 1}[pickle.loads(pickle.dumps(found))] == 1


class TestUsableCpus:
    def test_affinity_mask(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {9, 2}, raising=False)
        assert usable_cpus() == (2, 9)

    @pytest.mark.parametrize(("count", "cpus"), [(3, (0, 1, 2)), (None, (0,))])
    def test_all_cpus_where_there_is_no_mask(self, monkeypatch, count, cpus):
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        assert usable_cpus() == cpus


class TestUsableThreads:
    @pytest.mark.parametrize(
        ("usable", "quota", "threads"),
        [
            pytest.param(range(8), "max", 4, id="smt_siblings_not_counted"),
            pytest.param((0, 4), "max", 1, id="siblings_of_one_core"),
            pytest.param((1, 2, 6), "max", 2, id="affinity"),
            pytest.param((5, 6, 7), "max", 3, id="second_siblings_only"),
            pytest.param(range(8), "399999", 3, id="quota_rounds_down"),
            pytest.param(range(8), "50000", 1, id="quota_below_one"),
            pytest.param(range(8), "1600000", 4, id="quota_above_the_cores"),
        ],
    )
    def test_one_per_core_within_the_quota(self, tmp_path, usable, quota, threads):
        sysfs = write_sysfs(tmp_path / "sys", machine(cores=4, smt=2))
        paths = write_groups(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"})
        assert usable_threads(sysfs, usable=usable, **paths) == threads

    def test_affinity_mask_is_the_default(self, tmp_path, monkeypatch):
        monkeypatch.setattr(topology_module, "usable_cpus", lambda: (2, 3, 6))
        sysfs = write_sysfs(tmp_path / "sys", machine(cores=4, smt=2))
        assert usable_threads(sysfs, **write_groups(tmp_path, "0::/\n", {})) == 2

    def test_no_usable_cpu_is_an_error(self, tmp_path):
        with pytest.raises(ValueError, match="at least one CPU"):
            usable_threads(tmp_path, usable=())
