"""``lowerconv slurm``: write the job script that trains on the nodes of a Slurm cluster."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from lowerconv.arguments import Place, reader
from lowerconv.cli import train
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.files import LACKING_OF_DIRECTORIES
from lowerconv.machine.mpi import describe_mpi
from lowerconv.parallel.slurm import COUNT, MPI, Job, write_script
from lowerconv.train.checkpoint import LAST
from lowerconv.train.directory import METRICS

_EXAMPLE = "lowerconv slurm --nodes 4 --time 02:00:00 -o job.sh -- train --model alexnet --data ..."


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "slurm",
        help="write the job script that trains on the nodes of a Slurm cluster",
        description="Write a complete job script for sbatch: a job that is put back into the queue "
        "resumes. All that follows -- is the command that its ranks run.",
        epilog=f"example: {_EXAMPLE}; sbatch job.sh",
    )
    parser.add_argument("--nodes", type=reader(COUNT), required=True, metavar="N")
    parser.add_argument(
        "--ranks-per-node", type=reader(COUNT), metavar="R", help="default: one for each NUMA node"
    )
    parser.add_argument(
        "--cores-per-node",
        type=reader(COUNT),
        metavar="C",
        help="to ask for, as Slurm counts them; default: whole nodes",
    )
    parser.add_argument("--time", metavar="HH:MM:SS", help="default: the cluster's")
    parser.add_argument("--partition", metavar="P", help="default: the cluster's")
    parser.add_argument("--account", metavar="A")
    parser.add_argument(
        "--venv", metavar="DIR", help="virtual environment of the ranks; default: this Python's"
    )
    parser.add_argument(
        "--mpi",
        choices=MPI,
        help="how ranks find each other; default: pmix with Open MPI, pmi2 with MPICH; mpiexec "
        "where srun has neither (srun --mpi=list)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=reader(Place("a new file")),
        metavar="FILE",
        help="a new file; default: print the script",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- train ...", help="what ranks run"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Write the script; returns the exit status."""
    try:
        script = write_script(_job(options))
        content = os.fsencode(script)  # as file systems have names, whatever can be printed
        if options.output is None:
            sys.stdout.flush()
            sys.stdout.buffer.write(content)
        else:
            with open(options.output, "xb") as file:
                try:
                    file.write(content)
                    file.flush()
                except OSError:
                    options.output.unlink()
                    raise
            try:
                options.output.chmod(0o755)
            except OSError as error:  # sbatch takes it as it is
                if error.errno not in LACKING_OF_DIRECTORIES:
                    raise
        return 0
    except EXPECTED as error:
        return tell(error)


def _job(options: argparse.Namespace) -> Job:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if command[:1] != ["train"]:
        raise ValueError(
            f"-- train ...: got {' '.join(command) or 'nothing'}, expected the command to run, "
            f"such as in: {_EXAMPLE}"
        )
    # A mistake in it would else be found when the job has waited for its turn.
    commands = argparse.ArgumentParser(prog="lowerconv").add_subparsers()
    train.add_parser(commands)
    given = commands.choices["train"].parse_args(command[1:])
    if given.resume and given.out is None:
        raise ValueError("--resume: got no --out, expected the directory of the run to resume")
    python = sys.executable
    if options.venv is not None:
        python = str(Path(options.venv).expanduser().absolute() / "bin" / "python")
    return Job(
        f"lowerconv-{given.model}",
        command,
        python,
        options.nodes,
        None if given.out is None else str(given.out),
        LAST,
        METRICS,
        options.ranks_per_node,
        options.cores_per_node,
        options.time,
        options.partition,
        options.account,
        options.mpi or _mpi_of_this_python(),
    )


def _mpi_of_this_python() -> str:
    """Return what the MPI library that is installed here speaks."""
    library = describe_mpi()["library"] or "none"
    for name, spoken in (("Open MPI", "pmix"), ("MPICH", "pmi2")):
        if name in library:
            return spoken
    raise ValueError(
        f"--mpi: got none, and the MPI library here is {library}; expected one of {', '.join(MPI)}"
    )
