"""``lowerconv train``: train a network, alone or as one of the ranks of ``mpiexec``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lowerconv.arguments import Number, Place, add_arguments, described, reader
from lowerconv.cli import mistakes
from lowerconv.cli.foretold import Foretold, foretell
from lowerconv.console import PlainConsole
from lowerconv.data.loader import WORKERS
from lowerconv.machine.variables import THREADS_MAX
from lowerconv.nn.divergence import DivergenceError
from lowerconv.nn.models import MODELS
from lowerconv.parallel.comm.agreement import DisagreementError
from lowerconv.parallel.comm.communicator import Communicator, MPIError
from lowerconv.parallel.comm.mpi_communicator import launched_rank, world
from lowerconv.parallel.comm.together import together
from lowerconv.parallel.faults.stall import StallError
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import Calibration, load
from lowerconv.printable import printable_lines
from lowerconv.quant.options import Quantization
from lowerconv.runtime.affinity import cores, parse_affinity, set_affinity, set_share, topology
from lowerconv.runtime.threads import set_num_threads
from lowerconv.train.checkpoint import BEST, LAST
from lowerconv.train.initial import CHECKPOINT
from lowerconv.train.metrics import best_epoch
from lowerconv.train.progress import ConsoleReporter, Reporter
from lowerconv.train.settings import OPTIMIZERS, Settings
from lowerconv.train.trainer import OUT, Trainer

INTERRUPTED = 130  # exit status, as of shells
USAGE = 2  # that of argparse

EXPECTED = (*mistakes.EXPECTED, DisagreementError, DivergenceError, MPIError, StallError)

SETTINGS, OPTIONS = tuple(described(Settings)), tuple(described(ParallelOptions))
GENERAL, MACHINE = ("epochs", "batch", "seed"), ("algorithm", "sync_batch_norm")
BITS = ("precision", *described(Quantization))


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "train",
        help="train a network; over several processes under mpiexec",
        description="Train a network; under mpiexec each rank takes its share of every batch.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Settings that are not given are the model's own:\n"
        + "\n".join(
            f"  {name}: --epochs {m.epochs} --batch {m.batch} --lr {m.lr:g} "
            f"--momentum {m.momentum:g} --weight-decay {m.weight_decay:g}"
            for name, m in MODELS.items()
        )
        + "\n"
        + "\n".join(
            f"  with --optimizer {name}: "
            + " ".join(f"--{key.replace('_', '-')} {value:g}" for key, value in own.items())
            for name, own in OPTIMIZERS.items()
            if own
        ),
    )
    parser.add_argument("--model", choices=MODELS, default="lenet", help="default: %(default)s")
    parser.add_argument(
        "--data",
        default="fashion-mnist",
        metavar="SPEC",
        help="fashion-mnist (a part of it comes with the library; the default), "
        "fashion-mnist:DIR, cifar10:DIR, folder:DIR[?size=S], or shards:DIR[?size=S] that "
        "lowerconv pack has made of any of them",
    )
    add_arguments(parser, Settings, GENERAL)
    recipe = [name for name in SETTINGS if name not in (*GENERAL, *MACHINE, *BITS)]
    add_arguments(parser.add_argument_group("recipe"), Settings, recipe)
    add_arguments(parser.add_argument_group("bits"), Settings, BITS)
    _add_machine(parser.add_argument_group("machine"))
    add_arguments(parser.add_argument_group("ranks of mpiexec"), ParallelOptions)
    _add_results(parser.add_argument_group("results"))
    parser.set_defaults(func=run)


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add_arguments(group, Settings, MACHINE)
    group.add_argument(
        "--threads",
        type=reader(Number(int, 1, THREADS_MAX)),
        metavar="N",
        help="per process; default: LOWERCONV_NUM_THREADS, else this process's share of the cores, "
        "or OMP_NUM_THREADS where that is less, or no other process shares the host",
    )
    group.add_argument(
        "--affinity",
        metavar="POLICY",
        help="which cores threads are bound to: auto, compact, spread, none or a list of CPUs; "
        "default: LOWERCONV_AFFINITY, else auto",
    )
    group.add_argument(
        "--loader-threads",
        type=reader(WORKERS),
        metavar="N",
        help="per process, that decode and augment images ahead of their use; default: 1, and 0 "
        "(images are made when they are needed) where there is nothing to decode or augment",
    )
    group.add_argument(
        "--spare-core",
        action="store_true",
        help="keep one core of each process free of convolutions, for these threads alone",
    )


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=reader(OUT),
        metavar="DIR",
        help=f"where {LAST}, {BEST}, metrics and curves go; default: runs/MODEL-DATA-NUMBER",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help=f"go on from {LAST} in --out, by default in the last run of this model and data",
    )
    group.add_argument(
        "--init-from",
        type=reader(CHECKPOINT),
        metavar="CHECKPOINT",
        help="begin with the weights of another run of the same network, such as "
        f"{Path('DIR') / BEST}",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="write events for TensorBoard too"
    )
    group.add_argument(
        "--calibration",
        type=reader(Place("a calibration")),
        metavar="FILE",
        help="of lowerconv predict-time: tell what it predicts, and at the end how right that was",
    )


def run(options: argparse.Namespace) -> int:
    """Train as told; returns the exit status."""
    try:
        communicator = world()
    except MPIError as error:
        if not launched_rank():
            print(f"lowerconv: {printable_lines(error)}", file=sys.stderr)
        return 1
    chief = communicator.rank == 0
    reporter = ConsoleReporter(PlainConsole()) if chief else Reporter()
    prepared = False
    try:
        parallel, spare, known = together(communicator, lambda: _prepare(options, communicator))
        trainer = Trainer(
            options.model,
            options.data,
            options.out,
            resume=options.resume,
            init_from=options.init_from,
            tensorboard=options.tensorboard,
            parallel=parallel,
            communicator=communicator,
            reporter=reporter,
            workers=options.loader_threads,
            cpus=spare,
            **{name: getattr(options, name) for name in SETTINGS},  # None where not given
        )
        prepared = True
        foretold = None if known is None else _foretell(known, trainer, options.spare_core)
        history = trainer.fit()
        last, best = history[-1], history[best_epoch(history) - 1]
        averaged = "" if trainer.average is None else " of averaged weights"
        # Another reporter where rank 0 has died, and this one speaks in its place.
        trainer.reporter.say(
            f"{reporter.part} accuracy{averaged} {last.accuracy:.2%} after {last.epoch} epochs, "
            f"best {best.accuracy:.2%} after {best.epoch}, "
            f"{sum(row.seconds for row in history):.0f} s; everything is in {trainer.out}"
        )
        if foretold is not None:
            trainer.reporter.say(foretold.after(history))
        communicator.leave(0)
        return 0
    except Exception as error:
        reporter.close()
        # Before training all ranks have come here together and the first speaks; later on this
        # rank may be the only one, and the others are waiting for it.
        alone = prepared or communicator.deserted
        if chief or alone:
            _tell(error, communicator.rank if communicator.ranks > 1 else None)
        if alone and communicator.ranks > 1:
            communicator.abort(cut=isinstance(error, StallError))
        return 1
    except KeyboardInterrupt:
        reporter.close()
        if communicator.ranks == 1:
            raise
        if chief:
            sys.stderr.write("lowerconv: interrupted\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # MPI's own end would wait for ranks that are elsewhere
    finally:
        reporter.close()


def refuse(usage: str) -> int:
    """Tell all ranks that the arguments of this one cannot be read; returns the exit status.

    The others may have been given other arguments, and wait for this one.
    """
    try:
        communicator = world()
    except MPIError:
        if not launched_rank():
            sys.stderr.write(usage)
        return USAGE
    with suppress(ValueError):
        together(communicator, lambda: _raise(ValueError(usage.partition(": error: ")[2].strip())))
    if communicator.rank == 0 or communicator.deserted:
        sys.stderr.write(usage)
    if communicator.deserted:
        communicator.abort()
    return USAGE


def _raise(error: Exception) -> NoReturn:
    raise error


def _tell(error: Exception, rank: int | None) -> None:
    place = "" if rank is None else f" on rank {rank}"
    if isinstance(error, EXPECTED) or type(error) is RuntimeError:
        text = f"lowerconv: error{place}: {printable_lines(error)}\n"
    else:
        text = f"lowerconv: error{place}:\n{traceback.format_exc()}"
    sys.stderr.write(text)  # in one piece: launchers mix what ranks write in several


def _prepare(
    options: argparse.Namespace, communicator: Communicator
) -> tuple[ParallelOptions, Sequence[int] | None, Calibration | None]:
    """Return how ranks share the work, and which CPUs are left to the loader's threads.

    With them, on rank 0, comes the calibration that predicts the run.
    """
    given = {name: getattr(options, name) for name in OPTIONS}
    parallel = ParallelOptions(**{k: v for k, v in given.items() if v is not None})
    path = options.calibration
    known = load(path) if path is not None and communicator.rank == 0 else None
    return parallel, _take_cores(options, communicator), known


def _foretell(known: Calibration, trainer: Trainer, spare: bool) -> Foretold | None:
    """Tell what is predicted of a run, or why nothing is."""
    try:
        found = foretell(known, trainer, spare)
    except ValueError as error:
        trainer.reporter.say(f"warning: no prediction: {error}")
        return None
    trainer.reporter.say(found.before())
    return found


def _take_cores(options: argparse.Namespace, communicator: Communicator) -> Sequence[int] | None:
    """Take this rank's share of its host; returns what of it is left to the loader's threads."""
    if options.affinity is not None:
        try:
            set_affinity(parse_affinity(options.affinity))
        except ValueError as error:
            raise ValueError(f"--affinity: {error}") from None
    cpus = None
    threads = communicator.threads
    if options.spare_core:
        spare = set_share(communicator.cpus, spare=True)
        if spare is None:
            raise ValueError("--spare-core: got a process with a single core, expected two or more")
        cpus, threads = (spare,), min(threads, cores())
        communicator.spare_cpus = cpus
        set_share(topology().cpus)  # this thread, too, leaves the spare core alone
    elif communicator.ranks > 1:
        set_share(communicator.cpus)
    try:
        set_num_threads(options.threads or threads)
    except ValueError as error:
        raise ValueError(f"--threads: {error}") from None
    return cpus
