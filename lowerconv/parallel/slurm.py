"""A job script for Slurm: ``sbatch`` runs it, and it starts the ranks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from lowerconv.arguments import Number, checked

#: How the ranks find each other: through srun's PMIx or PMI-2, or started by the MPI's own mpiexec.
MPI = ("pmix", "pmi2", "mpiexec")

#: Seconds before the end of its time that a job is told of it: enough for ``scontrol``.
NOTICE = 120

COUNT = Number(int, 1)  # of nodes, and of what each has

_TIME = r"[0-9]+(:[0-9]{1,2}){0,2}|[0-9]+-[0-9]{1,2}(:[0-9]{1,2}){0,2}"
_NAME = r"[\w.,@:+=-]+"


@dataclass(frozen=True)
class Job:
    """What a job script is filled in with.

    Attributes
    ----------
    name : str
    command : sequence of str
        The arguments of ``lowerconv``, such as ``["train", "--model", "alexnet"]``.
    python : str
        The Python that has lowerconv, at the same path on every node.
    nodes : int
    out : str or None
        Directory of the run, which `command` says too; None: it does not, and the run gets one
        named after the job, in ``runs``.
    checkpoint, metrics : str
        Their names in it.
    ranks_per_node, cores_per_node : int or None
        By default one rank for each NUMA node, and all of every node.
    time, partition, account : str or None
        As Slurm takes them.
    mpi : str
        One of `MPI`.
    """

    name: str
    command: Sequence[str]
    python: str
    nodes: int
    out: str | None
    checkpoint: str
    metrics: str
    ranks_per_node: int | None = None
    cores_per_node: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    mpi: str = "pmix"

    def __post_init__(self) -> None:
        for name in ("nodes", "ranks_per_node", "cores_per_node"):
            count = getattr(self, name)
            if count is not None:
                checked(f"--{name.replace('_', '-')}", COUNT, count)
        for name, pattern, example in (
            ("time", _TIME, "minutes, HH:MM:SS or DAYS-HH:MM:SS"),
            ("partition", _NAME, "a name"),
            ("account", _NAME, "a name"),
        ):
            value = getattr(self, name)
            if value is not None and re.fullmatch(pattern, value, re.ASCII) is None:
                raise ValueError(f"--{name}: got {value!r}, expected {example}")
        for word in (*self.command, self.python, self.out or ""):
            if "\n" in word or "\r" in word or "\0" in word:
                raise ValueError(f"got {word!r}, expected no line breaks: a script has lines")
        ranks, cores = self.ranks_per_node, self.cores_per_node
        if ranks is not None and cores is not None and cores % ranks:
            raise ValueError(
                f"--cores-per-node: got {cores}, expected a multiple of --ranks-per-node {ranks}"
            )
        if ranks is None and self.mpi == "mpiexec":
            raise ValueError(
                "--ranks-per-node: got none, expected a number with --mpi mpiexec, which takes it "
                "from what the job asked Slurm for"
            )


def write_script(job: Job) -> str:
    """Return the script, complete, with the reason for each line."""
    parts = [_head(job), _BODY.format(**_words(job)), _start(job), _END]
    return "\n".join(part.strip("\n") + "\n" for part in parts)


def _head(job: Job) -> str:
    """Return what Slurm is asked for."""
    asked = [("job-name", job.name, "")]
    asked += [
        (name, value, "")
        for name in ("time", "partition", "account")
        if (value := getattr(job, name)) is not None
    ]
    asked.append(("nodes", str(job.nodes), ""))
    if job.ranks_per_node is not None:
        asked.append(("ntasks-per-node", str(job.ranks_per_node), "ranks on each node"))
    if job.cores_per_node is None:
        asked.append(("exclusive", "", "all cores of every node"))
    else:
        per_task = job.cores_per_node // (job.ranks_per_node or 1)
        asked.append(("cpus-per-task", str(per_task), "cores, as Slurm counts them"))
    asked += [
        ("requeue", "", "a job whose node failed starts again, and resumes"),
        ("open-mode", "append", "its log goes on where it was"),
        ("output", "%x-%j.log", ""),
        ("signal", f"B:USR1@{NOTICE}", f"tell this script {NOTICE} s before its time is over"),
    ]
    lines = []
    for name, value, why in asked:
        option = f"#SBATCH --{name}" + (f"={value}" if value else "")
        # Slurm takes what follows a # in such a line for a comment.
        lines.append(f"{option:<40}# {why}" if why else option)
    return "\n".join(["#!/bin/bash", *lines])


def _words(job: Job) -> dict[str, str]:
    """Return what stands in the body of the script, as bash reads it."""
    command = shlex.join(job.command)
    return {
        "python": shlex.quote(job.python),
        "out": '"runs/slurm-$SLURM_JOB_ID"' if job.out is None else shlex.quote(job.out),
        "command": f'{command} --out "$out"' if job.out is None else command,
        "checkpoint": shlex.quote(job.checkpoint),
        "metrics": shlex.quote(job.metrics),
    }


_BODY = r"""
set -u

# The Python that has lowerconv and its MPI, at the same path on every node.
python={python}

# One fixed directory: a job that starts again has the same number, and goes on from its checkpoint.
out={out}
command=({command})
if [ -e "$out"/{checkpoint} ]; then
  command+=(--resume)
fi

# Before its time is over the job goes back to the queue, but only if it has got on: one whose
# epochs take longer than its time would start again for ever.
epochs() {{ tail -n +2 "$out"/{metrics} 2>/dev/null | wc -l; }}
epochs_before=$(epochs)
requeue() {{
  told=yes
  if [ "$(epochs)" -gt "$epochs_before" ]; then
    echo "time is nearly over: back to the queue after $(epochs) epochs"
    scontrol requeue "$SLURM_JOB_ID"
  else
    echo "time is nearly over and no epoch was done in it: not started again; ask for more --time"
  fi
}}
trap requeue USR1
"""

_RANKS = r"""
# One rank for each NUMA node, as found on the first node: its threads then reach no other memory.
ranks=$("$python" -c 'from lowerconv.machine.topology import read_topology
print(len(read_topology().numa_nodes))') || exit
"""

_SRUN = r"""
# --cpus-per-task: what the job was given is not handed on to srun by itself.
# --cpu-bind=none: ranks divide the cores of their node among themselves, and bind their threads.
# --kill-on-bad-exit: one rank that fails ends all, which would wait for it.
srun --mpi={mpi} --nodes="$SLURM_JOB_NUM_NODES" --ntasks=$((SLURM_JOB_NUM_NODES * ranks)) \
  --ntasks-per-node="$ranks" --cpus-per-task=$((SLURM_CPUS_ON_NODE / ranks)) \
  --cpu-bind=none --kill-on-bad-exit=1 \
  "$python" -m lowerconv "${{command[@]}}" &
"""

_MPIEXEC = r"""
# The mpiexec of the MPI in that Python, which finds the nodes of the job, and its ranks per node.
mpiexec=$(dirname "$python")/mpiexec
[ -x "$mpiexec" ] || mpiexec=mpiexec
# --bind-to none: ranks divide the cores of their node among themselves, and bind their threads.
"$mpiexec" -n $((SLURM_JOB_NUM_NODES * ranks)) --bind-to none \
  "$python" -m lowerconv "${{command[@]}}" &
"""

_END = r"""
# In the background, and waited for: bash runs a trap only between commands.
ranks_pid=$!
trap 'told=yes; kill -TERM "$ranks_pid"' TERM INT
told=yes
while [ "$told" ]; do  # a signal ended the wait; how the ranks end is told by another one
  told=
  wait "$ranks_pid"
  status=$?
done
exit "$status"
"""


def _start(job: Job) -> str:
    """Return what starts the ranks."""
    given = f"ranks={job.ranks_per_node}  # on each node\n"
    ranks = _RANKS if job.ranks_per_node is None else given
    launch = _MPIEXEC if job.mpi == "mpiexec" else _SRUN
    return ranks.strip("\n") + "\n\n" + launch.strip("\n").format(mpi=job.mpi)
