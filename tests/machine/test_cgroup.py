"""Quotas read from made-up control groups: no test sees the real machine."""

import pytest

from lowerconv.machine.cgroup import control_groups, cpu_quota

from .groups import write_groups

V1_PERIOD = "cpu.cfs_period_us"
V1_QUOTA = "cpu.cfs_quota_us"
QUOTAS = {
    "v2": ("0::/a/b\n", {"a/b/cpu.max": "150000 100000\n"}, 1.5),
    "v2_none": ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n"}, None),
    "v2_parent_is_smaller": (
        "0::/a/b\n",
        {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "400000 100000\n"},
        2.0,
    ),
    "v2_child_is_smaller": (
        "0::/a/b\n",
        {"a/cpu.max": "800000 100000\n", "a/b/cpu.max": "300000 50000\n"},
        6.0,
    ),
    "v2_sibling_does_not_count": (
        "0::/a/b\n",
        {"a/b/cpu.max": "max 100000\n", "a/c/cpu.max": "10000 100000\n"},
        None,
    ),
    "v2_container_sees_its_own_group_as_root": ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
    "v2_group_outside_of_the_namespace": (
        "0::/../../x\n",
        {"cpu.max": "250000 100000\n", "x/cpu.max": "10000 100000\n"},
        2.5,
    ),
    "v2_beside_v1": (
        "4:memory:/m\n1:name=systemd:/s\n0::/u\n",
        {"unified/u/cpu.max": "50000 100000\n", "memory/m/cpu.max": "10000 100000\n"},
        0.5,
    ),
    "v1_nested": (
        "3:cpu,cpuacct:/a/b\n2:memory:/m\n",
        {
            f"cpu,cpuacct/a/{V1_QUOTA}": "300000\n",
            f"cpu,cpuacct/a/{V1_PERIOD}": "100000\n",
            f"cpu,cpuacct/a/b/{V1_QUOTA}": "-1\n",
            f"cpu,cpuacct/a/b/{V1_PERIOD}": "100000\n",
        },
        3.0,
    ),
    "v1_none": ("1:cpu:/\n", {f"cpu/{V1_QUOTA}": "-1\n", f"cpu/{V1_PERIOD}": "100000\n"}, None),
    "v1_path_of_the_host_in_a_container": (
        "5:cpu,cpuacct:/docker/0123\n",
        {f"cpu/{V1_QUOTA}": "50000\n", f"cpu/{V1_PERIOD}": "100000\n"},
        0.5,
    ),
    "v1_period_of_zero": ("1:cpu:/\n", {f"cpu/{V1_QUOTA}": "5\n", f"cpu/{V1_PERIOD}": "0\n"}, None),
    "path_with_a_colon": ("0::/a:b\n", {"a:b/cpu.max": "100000 100000\n"}, 1.0),
    "garbage": ("nonsense\n0::/a\n", {"a/cpu.max": "much\n", "cpu.max": "1 2 3\n"}, None),
    "nothing": ("0::/\n", {}, None),
}


class TestQuota:
    @pytest.mark.parametrize(("membership", "files", "quota"), QUOTAS.values(), ids=QUOTAS)
    def test_smallest_on_the_path_counts(self, tmp_path, membership, files, quota):
        assert cpu_quota(**write_groups(tmp_path, membership, files)) == quota

    def test_no_control_groups_at_all(self, tmp_path):
        assert cpu_quota(tmp_path / "none", tmp_path / "neither") is None

    def test_mount_counts_where_the_membership_is_hidden(self, tmp_path):
        paths = write_groups(tmp_path, "", {"cpu.max": "100000 50000\n"})
        assert cpu_quota(paths["cgroup"], tmp_path / "hidden") == 2.0

    def test_groups_come_before_their_parents(self, tmp_path):
        paths = write_groups(tmp_path, "0::/a/b\n", {"a/b/memory.max": "max"})
        root = paths["cgroup"]
        assert list(control_groups("memory", **paths)) == [root / "a/b", root / "a", root]
