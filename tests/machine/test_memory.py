"""Memory limits read from made-up control groups and resource limits."""

import os
import sys

import pytest

from lowerconv.machine import memory
from lowerconv.machine.memory import memory_limit, physical_memory

GIB = 1024**3
PHYSICAL = 64 * GIB


class FakeResource:
    """The module `resource` of a system with the limits given."""

    RLIM_INFINITY = -1

    def __init__(self, **limits):
        for number, (name, soft) in enumerate(limits.items()):
            setattr(self, name, number)
            setattr(self, f"_{number}", soft)

    def getrlimit(self, number):
        return getattr(self, f"_{number}"), self.RLIM_INFINITY


@pytest.fixture
def limit(tmp_path, monkeypatch):
    """Return a function: memory_limit of a machine with these groups and resource limits."""

    def read(membership="0::/\n", files=None, physical=PHYSICAL, **limits):
        monkeypatch.setattr(memory, "physical_memory", lambda: physical)
        monkeypatch.setattr(memory, "resource", FakeResource(**limits))
        (tmp_path / "membership").write_text(membership)
        for path, text in (files or {}).items():
            file = tmp_path / "cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return memory_limit(tmp_path / "cgroup", tmp_path / "membership")

    yield read
    memory_limit.cache_clear()


def test_physical_memory_alone(limit):
    assert limit() == PHYSICAL


V1 = "memory.limit_in_bytes"
GROUPS = {
    "v2": ("0::/a\n", {"a/memory.max": f"{2 * GIB}\n"}, 2 * GIB),
    "v2_none": ("0::/a\n", {"a/memory.max": "max\n"}, PHYSICAL),
    "v2_parent_is_smaller": (
        "0::/a/b\n",
        {"a/memory.max": f"{GIB}\n", "a/b/memory.max": f"{8 * GIB}\n"},
        GIB,
    ),
    "v2_child_is_smaller": (
        "0::/a/b\n",
        {"a/memory.max": f"{8 * GIB}\n", "a/b/memory.max": f"{3 * GIB}\n"},
        3 * GIB,
    ),
    "v2_above_the_physical": ("0::/\n", {"memory.max": f"{PHYSICAL + 1}\n"}, PHYSICAL),
    "v1_nested": (
        "9:cpu:/c\n4:memory:/a/b\n",
        {
            f"memory/{V1}": "9223372036854771712\n",
            f"memory/a/{V1}": f"{5 * GIB}\n",
            f"memory/a/b/{V1}": "9223372036854771712\n",
            f"memory/c/{V1}": "4096\n",
        },
        5 * GIB,
    ),
    "v1_path_of_the_host_in_a_container": (
        "4:memory:/docker/0123\n",
        {f"memory/{V1}": f"{GIB}\n"},
        GIB,
    ),
    "garbage": ("0::/\n", {"memory.max": "plenty\n"}, PHYSICAL),
}


@pytest.mark.parametrize(("membership", "files", "expected"), GROUPS.values(), ids=GROUPS)
def test_smallest_group_on_the_path_counts(limit, membership, files, expected):
    assert limit(membership, files) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"RLIMIT_AS": 7 * GIB, "RLIMIT_DATA": -1}, 7 * GIB),
        ({"RLIMIT_AS": -1, "RLIMIT_DATA": 6 * GIB}, 6 * GIB),
        ({"RLIMIT_AS": 2 * GIB, "RLIMIT_DATA": 6 * GIB}, 2 * GIB),
        ({"RLIMIT_AS": -1, "RLIMIT_DATA": -1}, PHYSICAL),
        ({"RLIMIT_DATA": GIB}, GIB),
    ],
)
def test_resource_limits_count(limit, limits, expected):
    assert limit(**limits) == expected


def test_smallest_of_all_sources(limit):
    files = {"memory.max": f"{4 * GIB}\n"}
    assert limit(files=files, RLIMIT_AS=5 * GIB) == 4 * GIB


def test_nothing_known_refuses_nothing(limit):
    assert limit(physical=None) == sys.maxsize


def test_no_module_resource(limit, monkeypatch, tmp_path):
    limit()
    memory_limit.cache_clear()
    monkeypatch.setattr(memory, "resource", None)
    assert memory_limit(tmp_path / "cgroup", tmp_path / "membership") == PHYSICAL


def test_read_once(limit):
    assert limit(files={"memory.max": f"{GIB}\n"}) == GIB
    assert limit(files={"memory.max": f"{2 * GIB}\n"}) == GIB


def test_physical_memory_in_pages(monkeypatch):
    sizes = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__, raising=False)
    assert physical_memory() == 4096000


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_physical_memory_unknown(monkeypatch, error):
    def sysconf(name):
        raise error(name)

    monkeypatch.setattr(os, "sysconf", sysconf, raising=False)
    assert physical_memory() is None


def test_no_sysconf(monkeypatch):
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert physical_memory() is None


def test_of_this_machine():
    assert 0 < memory_limit() <= sys.maxsize
