"""What holds this process back according to a machine report, each with its cure."""

from collections.abc import Iterator
from typing import Any

from lowerconv.machine.mpi import GET_MPI, UNBIND
from lowerconv.machine.topology import format_cpu_list
from lowerconv.machine.variables import OPENMP, OWN, valid_openmp

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

# What sets the number of threads of OpenMP, of BLAS, and of code of users beside us.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_NUMBA = "NUMBA_NUM_THREADS"

# Drivers of CPUs that choose their frequency themselves: "powersave" is then a hint, no low limit.
# The same drivers under other names (intel_cpufreq, amd-pstate) leave the choice to the governor.
_ACTIVE_DRIVERS = {"intel_pstate", "amd-pstate-epp"}


def find_problems(report: dict[str, Any]) -> Iterator[str]:
    """Yield what holds this process back according to a machine report, each with its cure.

    Parameters
    ----------
    report : dict
        As `machine_report` makes it; ``warnings`` are not needed.
    """
    yield from _old_blas_kernels(report)
    yield from _few_cores(report)
    yield from _many_threads(report)
    yield from _contradictions(report)
    yield from _slow_clock(report)
    yield from _compiled_anew(report)
    mpi = report["mpi"]
    if mpi["problem"] is not None:
        yield mpi["problem"]
    elif not (mpi["mpiexec_on_path"] or mpi["mpiexec_beside_python"]):
        yield (
            "MPI is there but mpiexec, which starts processes, is not found: put it on the PATH, "
            f"or get an MPI that has one: {GET_MPI}"
        )


def _few_cores(report: dict[str, Any]) -> Iterator[str]:
    """Yield a warning if this process may use less than the machine has without meaning to."""
    cores = report["cores"]
    usable, quota = cores["usable"], cores["cpu_quota"]
    # One core is a fair share where there are as many ranks as cores.
    if usable["cores"] == 1 and (report["load"]["ranks_on_host"] or 1) < cores["online"]["cores"]:
        yield (
            f"This process may run on one core only (CPU {format_cpu_list(usable['cpus'])}) of "
            f"{cores['online']['cores']}. Start it without taskset, ask the batch system or the "
            f"container for more cores, or, if mpiexec bound it, give each rank several: {UNBIND}."
        )
    if quota is not None and quota < usable["cores"]:
        yield (
            f"The CPU quota of the control group ({quota:g} CPUs) is smaller than the "
            f"{usable['cores']} cores of the affinity mask: {cores['usable_threads']} of them "
            "can be kept busy. Raise it (docker run --cpus, Kubernetes resources.limits.cpu, "
            "systemd CPUQuota) to use the others."
        )


def _many_threads(report: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for each reason why threads would have to take turns on the cores."""
    cores, load = report["cores"], report["load"]
    online, threads = cores["online"]["cores"], cores["threads_in_use"]
    ranks, quota = load["ranks_on_host"] or 1, cores["cpu_quota"]
    source = cores["threads_source"]
    # What the other ranks may use is not known without asking them: at most all the cores.
    most = cores["usable_threads"] if ranks == 1 else online if quota is None else int(quota)
    if ranks == 1 and threads > most:
        yield (
            f"{threads} threads are in use, for {most} {_cores(most)} at most: they take turns. "
            + (
                f"{source} says so: set it to {most}."
                if source in (OWN, OPENMP)
                else f"Call lowerconv.set_num_threads with {most}."
            )
        )
    elif threads > 1 and threads * ranks > most:
        yield (
            f"{ranks} ranks of {threads} threads are more than the {most} {_cores(most)} of this "
            "host: they take turns. lowerconv train gives each rank its share; in a program of "
            "your own call lowerconv.set_num_threads(lowerconv.parallel.world().threads)."
        )
    usable = cores["usable"]["cores"]
    for variable in _THREAD_VARIABLES:
        value = _number(report, variable)
        if value is not None and value > usable and source != variable:
            yield (
                f"{variable}={value} lets other libraries start more threads than this process has "
                f"cores ({usable}): they take turns. Unset it, or set {variable}={usable}."
            )
    average = load["average"]
    if average is not None and average > online:
        yield (
            f"Others are at work: in the last minute {average:.1f} threads wanted one of the "
            f"{online} {_cores(online)} of this machine. Wait for them, or leave them cores: "
            "lowerconv train --threads, lowerconv.set_num_threads."
        )


def _contradictions(report: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for each setting of threads that does not do what it seems to."""
    cores, environment = report["cores"], report["environment"]
    threads, most, source = (
        cores["threads_in_use"],
        cores["usable_threads"],
        cores["threads_source"],
    )
    own, openmp = _number(report, OWN), _number(report, OPENMP)
    text = environment.get(OPENMP, "").strip()
    if text and not valid_openmp(text):
        yield (
            f"{OPENMP}={text} is ignored, expected a positive integer or a list of them: set it to "
            f"one, or {OWN}."
        )
    if own is not None and openmp is not None and own != openmp and source == OWN:
        yield (
            f"{OWN}={own} is for the convolutions, {OPENMP}={openmp} for other libraries alone: "
            "unset one of them, if both should have the same."
        )
    ranks = report["load"]["ranks_on_host"] or 1
    if source == OPENMP and threads < most and ranks == 1:
        yield (
            f"{OPENMP} has kernels run on {threads} of the {most} threads worth using. If it is "
            f"meant for other libraries, set {OWN}={most}."
        )
    numba = _number(report, _NUMBA)
    if numba is not None and numba != threads:
        yield (
            f"{_NUMBA}={numba} is not heard: kernels do not run on numba's threads. Set "
            f"{OWN}={numba} to have {numba} of them instead of {threads}."
        )
    policy = cores["affinity"]["policy"]
    if not isinstance(policy, str) and len(policy) < threads:
        yield (
            f"Threads are not bound: {threads} of them have CPU {format_cpu_list(policy)} in the "
            f"affinity. Name {threads} CPUs there, or set {OWN}={len(policy)}."
        )


def _number(report: dict[str, Any], variable: str) -> int | None:
    """Return the threads that a variable asks for; None where that is nothing, or nonsense."""
    # Of a list such as "4,2" the first counts, the others are for nested regions.
    value = report["environment"].get(variable, "").partition(",")[0].strip()
    return int(value) if value.isdecimal() else None


def _slow_clock(report: dict[str, Any]) -> Iterator[str]:
    """Yield a warning if the governor keeps the cores at their lowest frequency."""
    drivers, governors = report["frequency"]["drivers"], report["frequency"]["governors"]
    drivers = [driver for driver in drivers if driver not in _ACTIVE_DRIVERS]
    if "powersave" in governors and drivers:
        yield (
            f"The frequency governor is powersave (driver {', '.join(drivers)}), "
            "which keeps the cores at their lowest frequency. Set another, as root: "
            "cpupower frequency-set -g performance."
        )


def _compiled_anew(report: dict[str, Any]) -> Iterator[str]:
    """Yield a warning for each reason why nothing is compiled, or none of it is kept."""
    if report["environment"].get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        yield "NUMBA_DISABLE_JIT is set: no kernel can run. Unset it."
    for variable, reason in report["kept_files"]["refused"].items():
        yield (
            f"What is compiled and measured cannot be kept ({reason}), so that every process does "
            f"it again. Set {variable} to a directory that can be written."
        )


def _cores(count: int) -> str:
    return "core" if count == 1 else "cores"


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
