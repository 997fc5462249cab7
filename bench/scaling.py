"""Strategies side by side, on one machine and between hosts: time, throughput, hidden messages.

    mpiexec -n P python -m bench.scaling [--model googlenet alexnet ...] [--parallel data owt ...]
                       [--batch 16] [--strong] [--steps 5] [--turns 5] [--threads N]
                       [--set NAME=VALUE ...] [--emulate GFLOPS] [--gbytes 10] [--save FILE]
    python -m bench.scaling --ranks 1 2 [the same]        starts mpiexec for each, in turns
    python -m bench.hosts 3 --gbit 1 -- python -m bench.scaling [the same]
    python -m bench.scaling --table FILE ... [--plot FILE.png]

A step trains on a batch of random images in memory: ``--batch`` of them for each rank (weak
scaling), or with ``--strong`` for all ranks together.  All strategies, and ranks that train alone
without messages, take turns of some steps.  Efficiency compares with a rank that trains alone while
the others do too, on as many cores (the machine's own slowdown is no fault of a strategy); and,
where a run with a single rank is there, with that.  Where all networks together do not fit into
memory they come one after the other.

With ``--emulate`` layers and updates sleep as long as a machine of so many GFLOP/s for products and
``--gbytes`` GB/s for everything else would take (`bench.emulated`): for more ranks than cores.
Messages, and the sums of gradients, are real.  All tables say so.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import lowerconv as lc
from bench.emulated import Machine
from bench.hosts import ON_ONE_MACHINE
from bench.network_peers import image_shape, options_of
from bench.scaling_report import ALONE, draw, efficiency_tables, merge
from bench.scaling_steps import Contender
from lowerconv.bench.load import Others
from lowerconv.machine.memory import memory_limit
from lowerconv.machine.mpi import launched_rank
from lowerconv.machine.topology import online_cpus
from lowerconv.nn.models import MODELS
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.mpi_communicator import world
from lowerconv.parallel.options import BELONGS_TO, ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.runtime.affinity import set_share

NETWORKS = ("googlenet", "cifar10_quick", "alexnet", "vgg16")
SETTLE = 2  # steps that are not timed: they compile, open connections, and take memory
ROOM = 0.7  # of the memory that networks may take together
# Copies of the weights: themselves, gradients, what messages need, and velocities, which emulated
# updates never touch.
COPIES, EMULATED_COPIES = 4, 3


def options_for(parallel: str, settings: Sequence[str]) -> ParallelOptions:
    """Return the options of a strategy, from ``NAME=VALUE``; others' settings are left out."""
    found = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in ParallelOptions.__dataclass_fields__:
            names = ", ".join(ParallelOptions.__dataclass_fields__)
            raise ValueError(f"set: got {setting!r}, expected NAME=VALUE with one of {names}")
        if parallel in BELONGS_TO.get(name, (parallel,)):
            try:
                found[name] = literal_eval(text)
            except (ValueError, SyntaxError):
                found[name] = text
    return ParallelOptions(parallel, **found)


def bytes_of(model: str, batch: int, emulated: bool) -> int:
    """Return about how many bytes a network takes, with all that belongs to its training."""
    network = MODELS[model].build(**options_of(model))
    if emulated:  # activations are never written
        return EMULATED_COPIES * sum(p.data.nbytes for p in network.parameters().values())
    report = network.memory_report((batch, *image_shape(model)))
    return COPIES * report.parameters + report.arena


def ranks_here(communicator: Communicator) -> int:
    """Return how many ranks share this machine, whatever it calls itself."""
    if ON_ONE_MACHINE in os.environ:
        return communicator.ranks
    return len(next(ranks for ranks in communicator.hosts if communicator.rank in ranks))


def measure(
    communicator: Communicator, model: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each strategy on a network; all ranks call it."""
    ranks = communicator.ranks
    whole = options.batch * (1 if options.strong else ranks)
    machine = Machine(options.emulate, options.gbytes) if options.emulate else None
    cases: dict[str, tuple[ParallelOptions | None, int]] = {ALONE: (None, options.batch)}
    if ranks > 1:
        for name in options.parallel:
            cases[name] = (options_for(name, options.set), whole)
    needed = bytes_of(model, max(options.batch, whole // ranks), machine is not None)
    room = ROOM * memory_limit() / ranks_here(communicator)
    together = communicator.broadcast(len(cases) * needed <= room)
    groups = [cases] if together else [{name: case} for name, case in cases.items()]
    rows = []
    for group in groups:
        contenders = {
            name: Contender(model, how, batch, ranks, machine)
            for name, (how, batch) in group.items()
        }
        for contender in contenders.values():
            contender.turn(SETTLE)
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for _ in range(options.turns):
            for name, contender in contenders.items():
                communicator.gather(None)
                turns[name].append(_worst(communicator, contender.turn(options.steps)))
        for name, contender in contenders.items():
            still = []
            if name != ALONE:
                communicator.gather(None)
                still.append(_worst(communicator, contender.still_turn(options.steps)))
            rows.append(
                {
                    "model": model,
                    "parallel": name,
                    "how": contender.strategy.describe(),
                    "batch": contender.batch,
                    "in_turns": together,
                    "turns": turns[name],
                    "still": still,
                }
            )
            contender.close()
        del contenders, contender
        gc.collect()
    return rows


def _worst(communicator: Communicator, taken: dict[str, float]) -> dict[str, float]:
    """Return of the ranks the longest step, the most bytes, and the mean of all else."""
    everywhere = communicator.gather(taken)
    return {
        "seconds": max(each["seconds"] for each in everywhere),
        "waits": statistics.mean(each["waits"] for each in everywhere),
        "sent": max(each["sent"] for each in everywhere),
        "emulated": statistics.mean(each["emulated"] for each in everywhere),
    }


def run_here(options: argparse.Namespace) -> dict[str, Any]:
    """Measure on the ranks of this job; return the result, on all of them."""
    communicator = world()
    if communicator.ranks > 1:
        set_share(communicator.cpus)
    if options.threads:
        lc.set_num_threads(options.threads)
    others, rows = Others(), []
    for model in options.model:
        rows += measure(communicator, model, options)
    return {
        "command": sys.argv[1:],
        "cpu": lc.machine_report()["cpu"]["name"],
        "cores": len(online_cpus()),
        "threads": lc.get_num_threads(),
        "ranks": communicator.ranks,
        "ranks_here": ranks_here(communicator),
        "hosts": len(communicator.hosts),
        "gbit": float(os.environ[ON_ONE_MACHINE]) if ON_ONE_MACHINE in os.environ else None,
        "mpi": communicator.describe(),
        "scaling": "strong" if options.strong else "weak",
        "emulated": [options.emulate, options.gbytes] if options.emulate else None,
        "set": options.set,
        "others": others.cores(),
        "results": rows,
    }


def launch(options: argparse.Namespace, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Start a job for each number of ranks, as often as there are turns; return their results."""
    launcher = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which(
        "mpiexec"
    )
    if launcher is None:
        raise ValueError("ranks: need mpiexec, not found on the PATH")
    threads = options.threads or max(1, len(online_cpus()) // max(options.ranks))
    environment = os.environ | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "result.json"
        for _ in range(options.turns):
            for ranks in options.ranks:
                command = [launcher, "-n", str(ranks), sys.executable, "-m", "bench.scaling"]
                command += [*arguments, "--turns", "1", "--threads", str(threads)]
                command += ["--quiet", "--save", str(file)]
                subprocess.run(command, env=environment, check=True)
                results.append(json.loads(file.read_text())[0])
    return merge(results)


def main() -> None:
    """Measure, or read what was measured, and print tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(NETWORKS))
    parser.add_argument("--parallel", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--batch", type=int, default=16, help="images (%(default)s)")
    parser.add_argument("--strong", action="store_true", help="a batch of all ranks together")
    parser.add_argument("--steps", type=int, default=5, help="of a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="of each strategy (%(default)s)")
    parser.add_argument("--threads", type=int, help="of each rank; default: its share of the cores")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE",
                        help="options of strategies, such as owt_scheme=b")  # fmt: skip
    parser.add_argument("--emulate", type=float, metavar="GFLOPS", help="sleep, do not compute")
    parser.add_argument("--gbytes", type=float, default=10.0, help="emulated GB/s (%(default)s)")
    parser.add_argument("--ranks", nargs="+", type=int, help="start mpiexec with so many, in turns")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all results as JSON")
    parser.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="of saved results")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw throughput")
    parser.add_argument("--quiet", action="store_true", help="print nothing")
    options = parser.parse_args()
    if options.table:
        saved = [json.loads(file.read_text()) for file in options.table]
        results = merge([result for file in saved for result in file])
    elif options.ranks:
        results = launch(options, _without(sys.argv[1:], "--ranks", "--save", "--plot", "--turns"))
    else:
        results = [run_here(options)]
        if launched_rank():
            return
    if options.save:
        options.save.write_text(json.dumps(results) + "\n")
    if not options.quiet:
        console = Console(width=120, markup=False, highlight=False, color_system=None)
        for table in efficiency_tables(results):
            console.print(table)
    if options.plot:
        try:
            draw(results, options.plot)
        except (RuntimeError, ValueError) as error:
            sys.exit(str(error))


def _without(arguments: Sequence[str], *names: str) -> list[str]:
    """Return arguments without some options and their values."""
    kept, skipping = [], False
    for argument in arguments:
        if argument.startswith("--"):
            skipping = argument.partition("=")[0] in names
        if not skipping:
            kept.append(argument)
    return kept


if __name__ == "__main__":
    main()
