"""MPI as it can be seen without initialising it: what launchers tell, and what is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GET_MPI = 'pip install "lowerconv[mpi]"'
# The options by which launchers give each rank several cores, or leave all cores to all ranks.
UNBIND = (
    "Open MPI --map-by slot:PE=n or --bind-to none, MPICH -bind-to core:n or -bind-to none, "
    "Slurm --cpus-per-task=n"
)

# What launchers tell the processes they start (MPICH and its kin, Open MPI, any with PMIx).
LAUNCHED_RANK = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
LAUNCHED_RANKS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
LAUNCHED_ON_HOST = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
PLACE_ON_HOST = ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")

# Why the ranks that a launcher started do not find each other, and what helps.
MISMATCH = {
    "mpiexec": "they come from different MPI installations; use the mpiexec of the same one",
    "srun": "they speak different PMIs; use srun --mpi=pmix with Open MPI, --mpi=pmi2 with MPICH",
}

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


def launched_rank() -> int | None:
    """Return the rank that an MPI launcher gave this process, None if none started it.

    A process alone, of a step of one task or in the script of a Slurm job, is not a rank; one of
    several that ``srun`` started without any MPI is: that they do not find each other must be told.
    """
    told = _told(LAUNCHED_RANK)
    return _told(["SLURM_PROCID"]) if told is None and _srun_without_mpi() else told


def launched_ranks() -> int | None:
    """Return how many ranks a launcher says it started, None if it does not."""
    told = _told(LAUNCHED_RANKS)
    return _told(["SLURM_STEP_NUM_TASKS"]) if told is None and _srun_started() else told


def launched_on_host() -> int | None:
    """Return how many of them it started on this host, None if it does not say."""
    told, node = _told(LAUNCHED_ON_HOST), _told(["SLURM_NODEID"])
    if told is not None or node is None or launcher() != "srun":
        return told
    counts: list[int] = []  # written as 4(x2),3
    for count, times in re.findall(
        r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    ):
        counts += [int(count)] * int(times or 1)
    return counts[node] if node < len(counts) else None


def speaks_for_host() -> bool:
    """Tell whether this process tells what is the same for all ranks of a host."""
    return not _told(PLACE_ON_HOST)


def launcher() -> str:
    """Return the name of the command that started this process, for messages."""
    if "OMPI_COMM_WORLD_SIZE" in os.environ or launched_ranks() is None:
        return "mpiexec"
    return "srun" if _told(["SLURM_STEP_NUM_TASKS"]) == launched_ranks() else "mpiexec"


# Slurm's srun --mpi=pmi2 says PMI_RANK and PMI_SIZE, --mpi=pmix only PMIX_RANK, --mpi=none nothing.
# What it says of its own, SLURM_PROCID and the like, is also there in the script of a job, where
# no rank was started. SLURM_STEP_NUM_TASKS and the like are said of the tasks of a step: these may
# be the daemons of mpiexec, and the ranks that it starts inherit them.


def _srun_started() -> bool:
    """Tell whether Slurm's count of tasks is that of the ranks."""
    # PMIx has one namespace for each launch, and Slurm's are named after it.
    return _srun_without_mpi() or os.environ.get("PMIX_NAMESPACE", "").startswith("slurm.")


def _srun_without_mpi() -> bool:
    if any(name in os.environ for name in LAUNCHED_RANK):
        return False
    tasks = _told(["SLURM_STEP_NUM_TASKS"])
    return tasks is not None and tasks > 1 and _told(["SLURM_PROCID"]) is not None


def _told(variables: Sequence[str]) -> int | None:
    told = next((os.environ[name] for name in variables if name in os.environ), "")
    return int(told) if told.isdecimal() else None


def describe_mpi() -> dict[str, Any]:
    """Describe the MPI library and its launchers.

    Starts a short process, unless this process has loaded MPI already.

    Returns
    -------
    dict
        ``state`` (``"found"``, ``"missing"`` or ``"unknown"``), ``library`` and ``standard``
        (texts or None), ``problem`` (a text with its cure, or None), ``mpiexec_on_path`` and
        ``mpiexec_beside_python`` (paths or None).
    """
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
