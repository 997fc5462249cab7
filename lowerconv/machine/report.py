"""The machine report: what this process has to work with, and what holds it back, as plain data."""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lowerconv.machine.cgroup import cpu_quota
from lowerconv.machine.features import cpu_name, instruction_set, notable_features
from lowerconv.machine.memory import memory_limit, physical_memory
from lowerconv.machine.topology import (
    ASSUMED_CACHE_BYTES,
    Topology,
    format_cpu_list,
    online_cpus,
    read_topology,
    usable_threads,
)
from lowerconv.version import __version__

GET_MPI = 'pip install "lowerconv[mpi]"'

# OpenBLAS's kernels by the instruction set they are written for. It chooses by CPU model, so that a
# model newer than the library, or one hidden by a virtual machine, gets kernels that are too old.
_OPENBLAS_KERNELS = {
    "avx512": ("skylakex", "cooperlake", "sapphirerapids"),
    "avx2": ("haswell", "zen"),
    "sse": (
        *("prescott", "core2", "penryn", "dunnington", "nehalem", "sandybridge", "atom", "nano"),
        *("opteron", "opteron_sse3", "barcelona", "bobcat", "bulldozer", "piledriver"),
        *("steamroller", "generic"),
    ),
}
_OPENBLAS_CURE = {"avx512": "SkylakeX", "avx2": "Haswell"}

# Run in a process of its own: loading a broken MPI can end the process, or hang it. The module
# search path is handed over, so that both find the same mpi4py.
_MPI_PROBE = """
import sys
sys.path[:] = sys.argv[1:]
import json
try:
    import mpi4py
    mpi4py.rc.initialize = False
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    print(json.dumps({"missing": str(error)}))
else:
    print(json.dumps({"library": MPI.Get_library_version(), "standard": MPI.Get_version()}))
"""
_MPI_PROBE_SECONDS = 30

# What sets the number of threads and the kernels of the libraries below us.
_SETTINGS = ("OPENBLAS_", "GOTO_", "OMP_", "MKL_", "BLIS_", "VECLIB_", "NUMBA_", "LOWERCONV_")


def machine_report() -> dict[str, Any]:
    """Describe the machine as this process sees it.

    Starts one short process (which loads MPI, without initialising it) and loads NumPy's and
    SciPy's BLAS and numba's threading layers.

    Returns
    -------
    dict
        JSON-able data: ``cpu``, ``cores``, ``caches``, ``numa_nodes``, ``memory`` (bytes),
        ``blas``, ``numba``, ``mpi``, ``versions``, ``environment`` (those variables that set the
        threads and kernels of these libraries), and ``warnings``, a list of texts each of which
        names a cure. What is not known is None.
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
        "caches": _caches(topology),
        "numa_nodes": [
            {"number": node.number, "cpus": list(node.cpus)} for node in topology.numa_nodes
        ],
        "memory": {"physical": physical_memory(), "limit": memory_limit()},
        "blas": _blas(),
        "numba": _numba(),
        "mpi": _mpi(),
        "versions": _versions(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)
        },
    }
    report["warnings"] = list(find_problems(report))
    return report


def find_problems(report: dict[str, Any]) -> Iterator[str]:
    """Yield what holds this process back according to a machine report, each with its cure.

    Parameters
    ----------
    report : dict
        As `machine_report` makes it; ``warnings`` are not needed.
    """
    yield from _old_blas_kernels(report)
    cores, mpi = report["cores"], report["mpi"]
    usable, quota = cores["usable"], cores["cpu_quota"]
    if usable["cores"] == 1 < cores["online"]["cores"]:
        yield (
            f"This process may run on one core only (CPU {format_cpu_list(usable['cpus'])}) of "
            f"{cores['online']['cores']}. Start it without taskset, ask the batch system for more "
            "cores per process, or, if mpiexec bound it, give each rank several cores (Open MPI: "
            "--bind-to none)."
        )
    if quota is not None and quota < usable["cores"]:
        yield (
            f"The CPU quota of the control group ({quota:g} CPUs) is smaller than the "
            f"{usable['cores']} cores of the affinity mask: {cores['usable_threads']} of them "
            "can be kept busy. Raise it (docker run --cpus, Kubernetes resources.limits.cpu, "
            "systemd CPUQuota) to use the others."
        )
    if mpi["problem"] is not None:
        yield mpi["problem"]
    elif not (mpi["mpiexec_on_path"] or mpi["mpiexec_beside_python"]):
        yield (
            "MPI is there but mpiexec, which starts processes, is not found: put it on the PATH, "
            f"or get an MPI that has one: {GET_MPI}"
        )


def _cores(topology: Topology) -> dict[str, Any]:
    # Imported here because it imports numba, which takes longer than all the rest.
    from lowerconv.machine.threads import get_num_threads

    # In a container the kernel's list may hide CPUs that the affinity mask has.
    online = read_topology(usable={*online_cpus(), *topology.cpus})

    def describe(part: Topology) -> dict[str, Any]:
        return {
            "packages": len(part.packages),
            "cores": len(part.cores),
            "smt_threads": len(part.cpus),
            "cpus": list(part.cpus),
        }

    return {
        "online": describe(online),
        "usable": describe(topology),
        "cpu_quota": cpu_quota(),
        "usable_threads": usable_threads(),
        "threads_in_use": get_num_threads(),
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


def _numba() -> dict[str, Any]:
    import numba

    layers = {}
    for layer, module in (("tbb", "tbbpool"), ("omp", "omppool"), ("workqueue", "workqueue")):
        try:
            importlib.import_module(f"numba.np.ufunc.{module}")
            layers[layer] = True
        except ImportError:  # the library that it needs is not there
            layers[layer] = False
    try:
        chosen = numba.threading_layer()
    except ValueError:  # nothing parallel has run yet
        chosen = None
    return {
        "threading_layers": [layer for layer, available in layers.items() if available],
        "threading_layer_in_use": chosen,
    }


def _mpi() -> dict[str, Any]:
    python_dir = Path(sys.executable).parent
    return {
        **(_loaded_mpi() or _probe_mpi()),
        "mpiexec_on_path": shutil.which("mpiexec"),
        "mpiexec_beside_python": shutil.which("mpiexec", path=python_dir),
    }


def _loaded_mpi() -> dict[str, Any] | None:
    """Ask the MPI that this process has loaded already: no child, which some MPIs forbid."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None:
        return None
    return _mpi_found(mpi.Get_library_version(), mpi.Get_version())


def _probe_mpi() -> dict[str, Any]:
    try:
        child = subprocess.run(
            [sys.executable, "-c", _MPI_PROBE, *sys.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MPI_PROBE_SECONDS,
            check=True,
        )
        answer = json.loads(child.stdout.splitlines()[-1])  # the lines before are MPI's own
    except subprocess.TimeoutExpired:
        return _mpi_unknown(f"loading it took more than {_MPI_PROBE_SECONDS} s")
    except subprocess.CalledProcessError as error:
        return _mpi_unknown(f"loading it ended the process with status {error.returncode}")
    except (OSError, ValueError, IndexError) as error:
        return _mpi_unknown(f"no answer: {error}")
    if "missing" in answer:
        reason = " ".join(answer["missing"].split())
        problem = f"No MPI ({reason}). Training over several processes needs one: {GET_MPI}"
        return {"state": "missing", "library": None, "standard": None, "problem": problem}
    return _mpi_found(answer["library"], answer["standard"])


def _mpi_found(library: str, standard: Sequence[int]) -> dict[str, Any]:
    # MPICH answers with its whole configuration, line by line; the first says which one it is.
    first_line = " ".join(library.rstrip("\0").partition("\n")[0].split())
    number = ".".join(map(str, standard))
    return {"state": "found", "library": first_line, "standard": number, "problem": None}


def _mpi_unknown(reason: str) -> dict[str, Any]:
    problem = f"MPI could not be examined ({reason}). One that works: {GET_MPI}"
    return {"state": "unknown", "library": None, "standard": None, "problem": problem}


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


def _old_blas_kernels(report: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for each sort of OpenBLAS kernels that uses less than the CPU has."""
    cpu = report["cpu"]["instruction_set"]
    if cpu not in _OPENBLAS_CURE:
        return
    sets = list(_OPENBLAS_KERNELS)  # newest first
    too_old = {name for older in sets[sets.index(cpu) + 1 :] for name in _OPENBLAS_KERNELS[older]}
    loaders: dict[str, list[str]] = {}
    for library in report["blas"]:
        kernels = library["kernels"]
        if library["library"] == "openblas" and kernels and kernels.lower() in too_old:
            loaders.setdefault(kernels, []).append(library["loaded_by"])
    variable, cure = "OPENBLAS_CORETYPE", _OPENBLAS_CURE[cpu]
    forced = report["environment"].get(variable)
    for kernels, names in loaders.items():
        yield (
            f"OpenBLAS (loaded by {', '.join(names)}) runs its {kernels} kernels on a CPU that has "
            f"{cpu}, so that matrix products leave much of the CPU unused. "
            + (f"{variable}={forced} asks for this: unset it, or set " if forced else "Set ")
            + f"{variable}={cure} before Python starts."
        )
