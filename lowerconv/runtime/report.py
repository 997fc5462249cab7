"""The machine report: what this process has to work with, and what holds it back, as plain data."""

import importlib
import os
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lowerconv.machine.cgroup import cpu_quota
from lowerconv.machine.disk_cache import DIRECTORY_VARIABLE, cache_directory, refusal
from lowerconv.machine.features import cpu_name, instruction_set, notable_features
from lowerconv.machine.memory import memory_limit, node_memory, physical_memory
from lowerconv.machine.mpi import describe_mpi, launched_on_host
from lowerconv.machine.problems import find_problems
from lowerconv.machine.system import frequency_scaling, huge_pages, load_average
from lowerconv.machine.topology import (
    ASSUMED_CACHE_BYTES,
    Topology,
    online_cpus,
    read_topology,
    usable_threads,
)
from lowerconv.version import __version__

# What sets the number of threads and the kernels of the libraries below us.
_SETTINGS = ("OPENBLAS_", "GOTO_", "OMP_", "MKL_", "BLIS_", "VECLIB_", "NUMBA_", "LOWERCONV_")


def machine_report() -> dict[str, Any]:
    """Describe the machine as this process sees it.

    Starts one short process (which loads MPI, without initialising it) and loads NumPy's and
    SciPy's BLAS. A rank of an MPI job describes itself: nothing waits for the others.

    Returns
    -------
    dict
        JSON-able data: ``cpu``, ``cores``, ``frequency``, ``load``, ``caches``, ``numa_nodes``,
        ``memory`` (bytes), ``blas``, ``mpi``, ``versions``, ``kept_files`` (what is compiled and
        measured), ``environment`` (those variables that set the threads and kernels of these
        libraries), and ``warnings``, a list of texts each of which names a cure. What is not known
        is None.

    Raises
    ------
    ValueError
        A variable of the environment that is for lowerconv alone has a value that it cannot have.
    """
    topology = read_topology()
    report: dict[str, Any] = {
        "cpu": {
            "name": cpu_name(),
            "architecture": platform.machine(),
            "instruction_set": instruction_set(),
            "features": list(notable_features()),
        },
        "cores": _cores(topology),
        "frequency": frequency_scaling(topology.cpus),
        "load": {"average": load_average(), "ranks_on_host": launched_on_host()},
        "caches": _caches(topology),
        "numa_nodes": _numa_nodes(topology),
        "memory": {
            "physical": physical_memory(),
            "limit": memory_limit(),
            "huge_pages": huge_pages(),
        },
        "blas": _blas(),
        "mpi": describe_mpi(),
        "versions": _versions(),
        "kept_files": _kept_files(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)
        },
    }
    report["warnings"] = list(find_problems(report))
    return report


def _cores(topology: Topology) -> dict[str, Any]:
    # Imported here because it imports llvmlite, which takes longer than all the rest.
    from lowerconv.runtime.affinity import get_affinity, places, refusal
    from lowerconv.runtime.threads import get_num_threads, threads_source

    # In a container the kernel's list may hide CPUs that the affinity mask has.
    online = read_topology(usable={*online_cpus(), *topology.cpus})

    def describe(part: Topology) -> dict[str, Any]:
        return {
            "packages": len(part.packages),
            "cores": len(part.cores),
            "smt_threads": len(part.cpus),
            "cpus": list(part.cpus),
            "siblings": [list(core) for core in part.cores],
        }

    bound = places(get_num_threads())
    return {
        "online": describe(online),
        "usable": describe(topology),
        "cpu_quota": cpu_quota(),
        "usable_threads": usable_threads(),
        "threads_in_use": get_num_threads(),
        "threads_source": threads_source(),
        "affinity": {
            "policy": get_affinity() if isinstance(get_affinity(), str) else list(get_affinity()),
            "places": None if bound is None else list(bound),
            "refused": refusal(),
        },
    }


def _caches(topology: Topology) -> list[dict[str, Any]]:
    """Describe equal caches once, with their count; assume sizes where none are known."""
    counts = Counter((c.level, c.kind, c.bytes, len(c.cpus)) for c in topology.caches)
    caches: list[dict[str, Any]] = [
        {
            "level": level,
            "kind": kind,
            "bytes": nbytes,
            "shared_by": sharers,
            "count": count,
            "assumed": False,
        }
        for (level, kind, nbytes, sharers), count in sorted(counts.items())
    ]
    for level in ASSUMED_CACHE_BYTES:
        if topology.cache_assumed(level):
            caches.append(
                {
                    "level": level,
                    "kind": "data" if level == 1 else "unified",
                    "bytes": topology.cache_bytes(level),
                    "shared_by": None,
                    "count": None,
                    "assumed": True,
                }
            )
    return sorted(caches, key=lambda cache: cache["level"])


def _numa_nodes(topology: Topology) -> list[dict[str, Any]]:
    return [
        {
            "number": node.number,
            "packages": [p.number for p in topology.packages if set(p.cpus) & set(node.cpus)],
            "cores": sum(core[0] in node.cpus for core in topology.cores),
            "cpus": list(node.cpus),
            "memory": node_memory(node.number),
        }
        for node in topology.numa_nodes
    ]


def _blas() -> list[dict[str, Any]]:
    # Each wheel brings a BLAS of its own; lowerconv's kernels call SciPy's, users' arrays NumPy's.
    for module in ("numpy", "scipy.linalg.cython_blas"):
        importlib.import_module(module)
    from threadpoolctl import threadpool_info

    libraries = [
        {
            "library": info["internal_api"],
            "loaded_by": _loaded_by(info["filepath"]),
            "version": info["version"],
            "kernels": info.get("architecture"),
            "threads": info["num_threads"],
            "path": info["filepath"],
        }
        for info in threadpool_info()
        if info["user_api"] == "blas"
    ]
    return sorted(libraries, key=lambda library: (library["loaded_by"], library["path"]))


def _loaded_by(path: str) -> str:
    """Name the package whose wheel a library came in: ``numpy.libs/``, ``scipy/.dylibs/``..."""
    folders = Path(path).parts
    for package in ("numpy", "scipy"):
        if package in folders or f"{package}.libs" in folders:
            return package
    return "other"


def _kept_files() -> dict[str, Any]:
    """Describe the directories of compiled code and of what was tuned."""
    places = {DIRECTORY_VARIABLE: cache_directory()}
    if os.environ.get("NUMBA_CACHE_DIR"):
        places["NUMBA_CACHE_DIR"] = Path(os.environ["NUMBA_CACHE_DIR"])
    directory = places[DIRECTORY_VARIABLE]
    return {
        "directory": None if directory is None else str(directory),
        "refused": {
            variable: refused
            for variable, place in places.items()
            if (refused := refusal(place)) is not None
        },
    }


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {
        "lowerconv": __version__,
        "python": platform.python_version(),
    }
    for package in ("numpy", "scipy", "numba", "llvmlite", "mpi4py"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions
