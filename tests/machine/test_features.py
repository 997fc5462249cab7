"""Instruction sets and names of CPUs other than this one."""

from types import SimpleNamespace

import llvmlite.binding as llvm
import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.machine import features, vector_length
from lowerconv.machine.features import (
    cpu_name,
    host_features,
    instruction_set,
    notable_features,
)

SSE = ["sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2"]
AVX2 = [*SSE, "avx", "avx2", "fma", "f16c"]
AVX512 = [*AVX2, "avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"]

CPUS = {
    "skylake_server": (AVX512, "x86_64", "avx512"),
    "xeon_phi_without_dq_bw_vl": ([*AVX2, "avx512f", "avx512cd"], "x86_64", "avx2"),
    "haswell": (AVX2, "AMD64", "avx2"),
    "avx2_without_fma": ([*SSE, "avx", "avx2"], "x86_64", "sse"),
    "sandy_bridge": ([*SSE, "avx"], "x86_64", "sse"),
    "x86_untold": ([], "x86_64", "sse"),
    "windows_untold": ([], "AMD64", "sse"),
    "graviton_2": (["neon", "dotprod"], "aarch64", "neon"),
    "apple_untold": ([], "arm64", "neon"),
    "armv7_with_neon": (["neon"], "armv7l", "neon"),
    "armv7_without_neon": ([], "armv7l", "generic"),
    "riscv": (["m", "a", "f", "d"], "riscv64", "generic"),
}


@pytest.mark.parametrize(("present", "architecture", "expected"), CPUS.values(), ids=CPUS)
def test_instruction_set(present, architecture, expected):
    assert instruction_set(dict.fromkeys(present, True), architecture) == expected


LENGTHS = {128: "neon", 256: "sve256", 384: "neon", 512: "sve512", 1024: "neon", 0: "neon"}


@pytest.mark.parametrize("length", LENGTHS)
def test_the_length_of_vectors_says_which_sve(length):
    told = dict.fromkeys(["neon", "dotprod", "sve"], True)
    assert instruction_set(told, "aarch64", length) == LENGTHS[length]
    assert instruction_set(told | {"sve": False}, "aarch64", length) == "neon"


@pytest.mark.parametrize(
    ("answer", "bits"), [(64, 512), (1 << 17 | 32, 256), (16, 128), (-1, 0)], ids=str
)
def test_linux_tells_the_length_of_vectors(answer, bits, monkeypatch):
    """In bytes, with flags in upper bits; where there is no SVE it refuses."""
    library = SimpleNamespace(prctl=lambda option, *zeros: answer if option == 51 else 0)
    monkeypatch.setattr(vector_length.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(vector_length.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(vector_length.sys, "platform", "linux")
    assert vector_length.vector_bits() == bits
    monkeypatch.setattr(vector_length.platform, "machine", lambda: "x86_64")
    assert vector_length.vector_bits() == 0


@pytest.mark.parametrize("missing", ["avx512f", "avx512dq", "avx512bw", "avx512vl"])
def test_avx512_needs_all_of_its_parts(missing):
    told = dict.fromkeys(AVX512, True) | {missing: False}
    assert instruction_set(told, "x86_64") == "avx2"


def test_instruction_set_of_this_cpu():
    assert instruction_set() in ISAS


def test_notable_features_are_those_present():
    told = {"neon": True, "sve": False, "dotprod": True, "crc": True}
    assert notable_features(told) == ("neon", "dotprod")
    assert set(notable_features()) <= {name for name, there in host_features().items() if there}


def test_host_that_llvm_does_not_know(monkeypatch):
    def unknown():
        raise RuntimeError("no host features")

    monkeypatch.setattr(llvm, "get_host_cpu_features", unknown)
    host_features.cache_clear()
    try:
        assert host_features() == {}
        assert notable_features() == ()
    finally:
        host_features.cache_clear()


def test_name_as_the_maker_writes_it(tmp_path):
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 85\n"
        "model name\t: Intel(R) Xeon(R)  Gold 6130 CPU @ 2.10GHz\n\nprocessor\t: 1\n"
    )
    assert cpu_name(tmp_path / "cpuinfo") == "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz"


@pytest.mark.parametrize(
    "text", [None, "processor\t: 0\nFeatures\t: fp asimd\n", "model name\t:\n"]
)
def test_name_as_llvm_knows_it(tmp_path, monkeypatch, text):
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "neoverse-n1")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu_name(tmp_path / "cpuinfo") == "neoverse-n1"


def test_name_that_nobody_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(llvm, "get_host_cpu_name", lambda: "")
    monkeypatch.setattr(features.platform, "processor", lambda: "")
    assert cpu_name(tmp_path / "cpuinfo") == "unknown"
