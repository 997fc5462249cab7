"""Topologies read from made-up kernel file systems: no test sees the real machine."""

import os
import pickle

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
from .machines import MACHINES, cache, machine, stored, unfold, write_sysfs

KIB = 1024


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
        little, big = ["0", "1", "2", "3"], ["4", "5"]
        described = machine(cores=6, caches={}) | {
            "caches": [
                *(cache(1, "Data", "32K", little), cache(2, "Unified", "128K", little)),
                *(cache(1, "Data", "64K", big), cache(2, "Unified", "512K", big)),
            ]
        }
        found = read_topology(write_sysfs(tmp_path, described), usable=range(6))
        assert (found.cache_bytes(1), found.cache_bytes(2)) == (32 * KIB, 128 * KIB)
        bound_to_big = read_topology(tmp_path, usable=(4, 5))
        assert (bound_to_big.cache_bytes(1), bound_to_big.cache_bytes(2)) == (64 * KIB, 512 * KIB)

    def test_cores_with_and_without_smt_in_one_package(self, tmp_path):
        described = machine(cores=6, caches={}) | {"cores": ["0-1", "2-3", "4", "5"]}
        found = read_topology(write_sysfs(tmp_path, described), usable=range(6))
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
        sysfs = write_sysfs(tmp_path, machine(packages=2, cores=2) | {"nodes": {}})
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
        sysfs = write_sysfs(tmp_path, machine(cores=4, smt=2) | {"offline": "3,5,7"})
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


# What the machines of trees/ are: packages, NUMA nodes (by number), cores, usable CPUs, last-level
# caches, threads worth using.
STORED = {
    "container-cgroup1": ("0", "0", 8, 16, 1, 2),
    "container-cgroup2": ("0", "0", 8, 16, 1, 2),
    "core-i5-9600k": ("0", "0", 6, 6, 1, 6),
    "core-i7-12700k": ("0", "0", 12, 20, 1, 12),
    "epyc-7302-x2-nps4": ("0-1", "0-7", 32, 64, 16, 32),
    "epyc-7543p": ("0", "0", 32, 64, 8, 32),
    "kvm-bare": ("0-3", "0", 4, 4, 0, 4),
    "kvm-offline": ("0", "0", 3, 4, 1, 3),
    "power9-ac922": ("0,8", "0,8", 40, 160, 20, 40),
    "rk3588": ("0", "0", 8, 8, 1, 8),
    "ryzen-7-5800x": ("0", "0", 8, 16, 1, 8),
    "slurm-cpuset": ("1", "1", 4, 8, 1, 4),
    "xeon-6130-x2": ("0-1", "0-1", 32, 64, 2, 32),
    "xeon-6248-x2-snc2": ("0-1", "0-3", 40, 80, 2, 40),
    "xeon-e5-2630v4-x2": ("0-1", "0-1", 20, 40, 2, 20),
    "xeon-max-9462-x2": ("0-1", "0-1", 64, 128, 2, 64),
}


class TestStoredMachines:
    def test_all_are_here(self):
        assert sorted(STORED) == MACHINES

    @pytest.mark.parametrize("name", MACHINES)
    def test_counts(self, tmp_path, name):
        paths = unfold(tmp_path, name)
        found = read_topology(paths["sysfs"], usable=paths["usable"])
        last = max((cache.level for cache in found.caches), default=0)
        assert (
            format_cpu_list(package.number for package in found.packages),
            format_cpu_list(node.number for node in found.numa_nodes),
            len(found.cores),
            len(found.cpus),
            sum(cache.level == last for cache in found.caches),
            usable_threads(**paths),
        ) == STORED[name]
        for groups in (found.packages, found.numa_nodes):
            assert sorted(cpu for group in groups for cpu in group.cpus) == [*found.cpus]

    def test_capacities_of_big_and_little_cores(self, tmp_path):
        sysfs = write_sysfs(tmp_path, stored("rk3588"))
        assert read_topology(sysfs, usable=range(8)).capacities == (530,) * 4 + (1024,) * 4
        assert read_topology(sysfs, usable=(3, 4)).capacities == (530, 1024)
        (sysfs / "devices/system/cpu/cpu5/cpu_capacity").unlink()
        assert read_topology(sysfs, usable=range(8)).capacities == ()
        assert read_topology(sysfs, usable=(3, 4)).capacities == (530, 1024)

    @pytest.mark.parametrize("text", ["", "fast", "-1", "0"])
    def test_capacities_that_are_none(self, tmp_path, text):
        sysfs = write_sysfs(tmp_path, stored("rk3588"))
        (sysfs / "devices/system/cpu/cpu2/cpu_capacity").write_text(text)
        assert read_topology(sysfs, usable=range(8)).capacities == ()


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
