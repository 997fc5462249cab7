"""What the CPU is called and which instructions it has, as LLVM sees it."""

import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import llvmlite.binding as llvm

from lowerconv.machine.cgroup import read_or_none
from lowerconv.machine.vector_length import vector_bits

# What a compiler needs of an instruction set before it can use its full-width registers.
_NEEDS = {
    # Foundation alone (the first Xeon Phi) has neither masked bytes nor the short vectors that
    # LLVM mixes in.
    "avx512": ("avx512f", "avx512dq", "avx512vl", "avx512bw"),
    "avx2": ("avx2", "fma"),
    "sse": ("sse2",),
    "neon": ("neon",),
}
# Some hosts tell LLVM no features; these every CPU of the architecture has.
_BASELINE = {"x86_64": "sse", "amd64": "sse", "aarch64": "neon", "arm64": "neon"}

SVE = {512: "sve512", 256: "sve256"}  # of other lengths NEON is used

# Those that matter to convolutions: vector width, fused and reduced-precision arithmetic.
_NOTABLE = (
    *("sse4.2", "avx", "f16c", "fma", "avx2", "avxvnni"),
    *("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16"),
    *("avx10.1", "avx10.2", "amx-tile", "amx-int8", "amx-bf16", "amx-fp16"),
    *("neon", "dotprod", "fullfp16", "bf16", "i8mm", "sve", "sve2", "sme", "sme2"),
)


@lru_cache
def host_features() -> Mapping[str, bool]:
    """Features of this CPU by LLVM's names; empty where LLVM cannot tell."""
    try:
        return llvm.get_host_cpu_features()
    except RuntimeError:
        return {}


@lru_cache
def has_fast_bf16() -> bool:
    """Return whether dot products of bf16 are faster than multiply-adds of float32.

    AMD's and Arm's do twice as many products.  Intel's cores do half as many (measured on Emerald
    Rapids, ``python -m bench.types``): they leave bf16 to AMX.
    """
    if host_features().get("avx512bf16", False):
        return llvm.get_host_cpu_name().startswith("znver")
    return host_features().get("bf16", False)


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the CPU as its maker writes it, else as LLVM does (``"neoverse-n1"``).

    Parameters
    ----------
    cpuinfo : Path
        The kernel's description of the CPUs.
    """
    for line in (read_or_none(cpuinfo) or "").splitlines():
        key, _, name = line.partition(":")
        if key.strip().lower() == "model name" and name.strip():
            return " ".join(name.split())
    return llvm.get_host_cpu_name() or platform.processor() or "unknown"


def instruction_set(
    features: Mapping[str, bool] | None = None,
    architecture: str | None = None,
    length: int | None = None,
) -> str:
    """Widest vector instruction set that microkernels can be generated for.

    Parameters
    ----------
    features : mapping of str to bool, optional
        By LLVM's names. Default: those of this CPU.
    architecture : str, optional
        As ``platform.machine()`` names it, which is the default.
    length : int, optional
        Of registers of SVE in bits. Default: those of this thread.

    Returns
    -------
    str
        ``"avx512"`` (16 floats, 32 registers), ``"avx2"`` (8 floats, 16 registers, FMA), ``"sse"``
        (4 floats, 16 registers), ``"sve512"`` and ``"sve256"`` (16 and 8 floats, 32 registers),
        ``"neon"`` (4 floats, 32 registers, FMA) or ``"generic"``.
    """
    features = host_features() if features is None else features
    if features.get("sve", False):
        name = SVE.get(vector_bits() if length is None else length)
        if name:
            return name
    for name, needed in _NEEDS.items():
        if all(features.get(feature, False) for feature in needed):
            return name
    return _BASELINE.get((architecture or platform.machine()).lower(), "generic")


def notable_features(features: Mapping[str, bool] | None = None) -> tuple[str, ...]:
    """Those features of the CPU that matter to convolutions, by LLVM's names.

    Parameters
    ----------
    features : mapping of str to bool, optional
        Default: those of this CPU.
    """
    features = host_features() if features is None else features
    return tuple(name for name in _NOTABLE if features.get(name, False))
