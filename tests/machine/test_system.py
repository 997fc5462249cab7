"""Settings of the system, read from made-up kernel file systems."""

import os

import pytest

from lowerconv.machine.memory import node_memory
from lowerconv.machine.system import frequency_scaling, huge_pages, load_average

from .machines import stored, write_sysfs

GIB = 1024**3


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


class TestFrequency:
    def test_of_the_cpus_asked_for(self, tmp_path):
        for cpu, governor in enumerate(["powersave", "performance", "performance", "userspace"]):
            cpufreq = tmp_path / f"devices/system/cpu/cpu{cpu}/cpufreq"
            put(cpufreq / "scaling_governor", governor)
            put(cpufreq / "scaling_driver", "acpi-cpufreq")
        assert frequency_scaling(range(3), tmp_path) == {
            "drivers": ["acpi-cpufreq"],
            "governors": ["performance", "powersave"],
        }

    def test_unknown(self, tmp_path):
        assert frequency_scaling([0, 1], tmp_path) == {"drivers": [], "governors": []}


class TestHugePages:
    @pytest.mark.parametrize(
        ("text", "chosen"),
        [
            ("always [madvise] never", "madvise"),
            ("[always] madvise never", "always"),
            ("always madvise [never]", "never"),
            ("nonsense", None),
            ("", None),
        ],
    )
    def test_the_chosen_one_is_in_brackets(self, tmp_path, text, chosen):
        put(tmp_path / "kernel/mm/transparent_hugepage/enabled", text)
        assert huge_pages(tmp_path) == chosen

    def test_unknown(self, tmp_path):
        assert huge_pages(tmp_path) is None


class TestLoad:
    def test_of_the_last_minute(self, monkeypatch):
        monkeypatch.setattr(os, "getloadavg", lambda: (3.5, 2.0, 1.0), raising=False)
        assert load_average() == 3.5

    def test_unknown(self, monkeypatch):
        def fail():
            raise OSError

        monkeypatch.setattr(os, "getloadavg", fail, raising=False)
        assert load_average() is None
        monkeypatch.delattr(os, "getloadavg")
        assert load_average() is None


class TestNodeMemory:
    def test_of_each_node(self, tmp_path):
        write_sysfs(tmp_path, stored("xeon-max-9462-x2"))
        assert [node_memory(node, tmp_path) for node in range(5)] == [
            *(256 * GIB, 256 * GIB, 64 * GIB, 64 * GIB, None)
        ]

    def test_garbage_counts_as_missing(self, tmp_path):
        put(tmp_path / "devices/system/node/node0/meminfo", "Node 0 MemTotal: much kB")
        assert node_memory(0, tmp_path) is None
