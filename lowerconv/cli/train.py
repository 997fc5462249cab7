"""``lowerconv train``: train a network, alone or as one of the ranks of ``mpiexec``."""

from __future__ import annotations

import argparse
import math
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from lowerconv.data import Augment, DataError, load
from lowerconv.data.augment import EFFECTS
from lowerconv.machine.affinity import cores, parse_affinity, set_affinity, set_share, topology
from lowerconv.machine.threads import set_num_threads
from lowerconv.nn.models import MODELS
from lowerconv.parallel.communicator import (
    Communicator,
    MPIError,
    launched_rank,
    together,
    world,
)
from lowerconv.plan import algorithms
from lowerconv.train.checkpoint import CheckpointError
from lowerconv.train.loop import CHECKPOINT, Settings, Trainer
from lowerconv.train.progress import ConsoleReporter, Reporter, announce_compilation

RUNS = Path("runs")

# Mistakes of the user or of the machine: told in a line, without a traceback.
EXPECTED = (CheckpointError, DataError, MPIError, OSError, MemoryError, ValueError)


def _number(
    kind: Callable[[str], float], least: float, below: float = math.inf
) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value < below:
            bound = f" and below {below:g}" if below < math.inf else ""
            raise argparse.ArgumentTypeError(f"got {text}, expected at least {least:g}{bound}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


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
    parser.add_argument(
        "--augment",
        metavar="NAME,NAME...",
        help="random changes to training images, each with its default amount or NAME=AMOUNT: "
        + ", ".join(f"{name}={amount}" for name, (amount, _, _) in EFFECTS.items())
        + " (what these are: docs/augment.md); default: none",
    )
    parser.add_argument("--epochs", type=_number(int, 1), metavar="N")
    parser.add_argument(
        "--batch", type=_number(int, 1), metavar="N", help="images of all ranks together"
    )
    parser.add_argument(
        "--lr",
        type=_number(float, 0),
        help="learning rate to start with; it falls to zero along a cosine",
    )
    parser.add_argument("--momentum", type=_number(float, 0, 1))
    parser.add_argument("--weight-decay", type=_number(float, 0))
    parser.add_argument(
        "--algorithm",
        choices=("auto", *algorithms()),
        default="auto",
        help="of the convolutions; default: %(default)s",
    )
    parser.add_argument(
        "--threads",
        type=_number(int, 1),
        metavar="N",
        help="per process; default: this process's share of the cores",
    )
    parser.add_argument(
        "--affinity",
        metavar="POLICY",
        help="which cores threads are bound to: auto, compact, spread, none or a list of CPUs; "
        "default: LOWERCONV_AFFINITY, else auto",
    )
    parser.add_argument(
        "--loader-threads",
        type=_number(int, 0),
        metavar="N",
        help="per process, that decode and augment images ahead of their use; default: 1, and 0 "
        "(images are made when they are needed) where there is nothing to decode or augment",
    )
    parser.add_argument(
        "--spare-core",
        action="store_true",
        help="keep one core of each process free of convolutions, for these threads alone",
    )
    parser.add_argument("--seed", type=_number(int, 0), default=0, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where checkpoint, metrics and curves go; default: runs/MODEL-DATA-NUMBER",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in --out, by default the last run of this model and data",
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Train as told; returns the exit status."""
    try:
        communicator = world()
    except MPIError as error:
        if not launched_rank():
            print(f"lowerconv: {error}", file=sys.stderr)
        return 1
    chief = communicator.rank == 0
    reporter = ConsoleReporter(Console()) if chief else Reporter()
    prepared = False
    try:
        trainer = together(communicator, lambda: _prepare(options, communicator, reporter))
        prepared = True
        reporter.say(trainer.describe())
        for warning in communicator.warnings:
            reporter.say(f"warning: {warning}")
        with announce_compilation(reporter):
            trainer.fit()
        last = trainer.history[-1]
        reporter.say(
            f"test accuracy {last.test_accuracy:.2%} after {last.epoch} epochs, "
            f"{sum(row.seconds for row in trainer.history):.0f} s; everything is in {trainer.out}"
        )
        return 0
    except Exception as error:
        reporter.close()
        # Before training all ranks have come here together and the first speaks; later on this
        # rank may be the only one, and the others are waiting for it.
        if chief or prepared:
            _tell(error, communicator.rank if communicator.ranks > 1 else None)
        if prepared and communicator.ranks > 1:
            communicator.abort()
        return 1
    finally:
        reporter.close()


def _tell(error: Exception, rank: int | None) -> None:
    place = "" if rank is None else f" on rank {rank}"
    if isinstance(error, EXPECTED) or type(error) is RuntimeError:
        text = f"lowerconv: error{place}: {error}\n"
    else:
        text = f"lowerconv: error{place}:\n{traceback.format_exc()}"
    sys.stderr.write(text)  # in one piece: launchers mix what ranks write in several


def _prepare(
    options: argparse.Namespace, communicator: Communicator, reporter: Reporter
) -> Trainer:
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
        set_share(topology().cpus)  # this thread, too, leaves the spare core alone
    elif communicator.ranks > 1:
        set_share(communicator.cpus)
    try:
        set_num_threads(options.threads or threads)
    except ValueError as error:
        raise ValueError(f"--threads: {error}") from None
    model = MODELS[options.model]

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    settings = Settings(
        model=options.model,
        data=options.data,
        epochs=options.epochs or model.epochs,
        batch=options.batch or model.batch,
        lr=given(options.lr, model.lr),
        momentum=given(options.momentum, model.momentum),
        weight_decay=given(options.weight_decay, model.weight_decay),
        seed=options.seed,
        algorithm=options.algorithm,
        augment=str(Augment.parse(options.augment)) if options.augment else None,
    )
    train_set, test_set = load(options.data)
    # Rank 0 owns the directory: the others might not even see its file system.
    out = Path()
    if communicator.rank == 0:
        out = options.out or _default_out(settings, options.resume)
        if not options.resume and (out / CHECKPOINT).exists():
            raise CheckpointError(
                f"{out}: holds a run already; --resume continues it, another --out starts a new one"
            )
        out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        settings,
        train_set,
        test_set,
        out,
        communicator,
        reporter,
        workers=options.loader_threads,
        cpus=cpus,
    )
    if options.resume:
        trainer.resume()
    return trainer


def _default_out(settings: Settings, resume: bool) -> Path:
    """Return the next directory for runs of this model and data, or the last one to resume."""
    data = re.sub(r"[^A-Za-z0-9]+", "-", settings.data).strip("-")
    stem = f"{settings.model}-{data}-"
    numbers = [
        int(path.name.removeprefix(stem))
        for path in RUNS.glob(f"{stem}*")
        if path.name.removeprefix(stem).isdecimal()
    ]
    last = max(numbers, default=0)
    return RUNS / f"{stem}{last if resume else last + 1}"
