"""``lowerconv train``: train a network, alone or as one of the ranks of ``mpiexec``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from math import inf
from pathlib import Path

from rich.console import Console

from lowerconv.cli import mistakes
from lowerconv.data.augment import EFFECTS
from lowerconv.machine.affinity import cores, parse_affinity, set_affinity, set_share, topology
from lowerconv.machine.threads import set_num_threads
from lowerconv.nn.divergence import DivergenceError
from lowerconv.nn.models import MODELS
from lowerconv.parallel.agreement import DisagreementError
from lowerconv.parallel.collectives import ALLREDUCE
from lowerconv.parallel.communicator import (
    Communicator,
    MPIError,
    launched_rank,
    together,
    world,
)
from lowerconv.parallel.options import (
    AUTO,
    OVERLAPS,
    SCHEMES,
    STRATEGIES,
    WIRES,
    ParallelOptions,
)
from lowerconv.parallel.options import RANGES as OPTION_RANGES
from lowerconv.parallel.stall import StallError
from lowerconv.plan import algorithms
from lowerconv.train.checkpoint import BEST, LAST
from lowerconv.train.metrics import best_epoch
from lowerconv.train.progress import ConsoleReporter, Reporter
from lowerconv.train.settings import OPTIMIZERS, RANGES, SCHEDULES, Settings, describe_range
from lowerconv.train.trainer import Trainer

INTERRUPTED = 130  # exit status, as of shells

EXPECTED = (*mistakes.EXPECTED, DisagreementError, DivergenceError, MPIError, StallError)

SETTINGS = [field.name for field in fields(Settings) if field.name not in ("model", "data")]
OPTIONS = [field.name for field in fields(ParallelOptions)]


def _number(
    kind: Callable[[str], float], least: float, below: float = inf
) -> Callable[[str], float]:
    """Return what reads a number, in its range, for argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not least <= value < below:
            expected = describe_range(least, below)
            raise argparse.ArgumentTypeError(f"got {text}, expected {expected}")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


def _setting(name: str) -> Callable[[str], float]:
    """Return what reads a setting that is a number."""
    return _number(*RANGES[name])


def epochs(text: str) -> tuple[int, ...]:
    """Read a list of epochs; argparse names this function where it is none."""
    return tuple(int(part) for part in text.split(","))


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
    parser.add_argument("--epochs", type=_setting("epochs"), metavar="N")
    parser.add_argument(
        "--batch", type=_setting("batch"), metavar="N", help="images of all ranks together"
    )
    parser.add_argument("--seed", type=_setting("seed"), default=0, help="default: %(default)s")
    _add_recipe(parser.add_argument_group("recipe"))
    _add_machine(parser.add_argument_group("machine"))
    _add_parallel(parser.add_argument_group("ranks of mpiexec"))
    _add_results(parser.add_argument_group("results"))
    parser.set_defaults(func=run)


def _add_recipe(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--augment",
        metavar="NAME,NAME...",
        help="random changes to training images, each with its default amount or NAME=AMOUNT: "
        + ", ".join(f"{name}={amount}" for name, (amount, _, _) in EFFECTS.items())
        + " (what these are: docs/augment.md); default: none",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, help="default: sgd")
    group.add_argument("--lr", type=_setting("lr"), help="learning rate at its highest")
    group.add_argument("--momentum", type=_setting("momentum"), help="of sgd and lars")
    group.add_argument("--nesterov", action="store_true", default=None, help="momentum of sgd")
    group.add_argument(
        "--weight-decay", type=_setting("weight_decay"), help="biases and normalisation have none"
    )
    group.add_argument(
        "--schedule", choices=SCHEDULES, help="how the learning rate falls; default: cosine"
    )
    group.add_argument(
        "--warmup",
        type=_setting("warmup"),
        metavar="EPOCHS",
        help="in which it rises before; default: 0",
    )
    group.add_argument(
        "--milestones",
        type=epochs,
        metavar="E,E,...",
        help="epochs after which schedule step multiplies it; default: 3/9, 6/9 and 8/9 of all",
    )
    group.add_argument("--gamma", type=_setting("gamma"), help="... by this; default: 0.1")
    group.add_argument("--power", type=_setting("power"), help="of schedule poly; default: 2")
    group.add_argument(
        "--scale-lr-from",
        type=_setting("scale_lr_from"),
        metavar="BATCH",
        help="--lr is for updates of so many images, and grows in proportion",
    )
    group.add_argument(
        "--accumulate",
        type=_setting("accumulate"),
        metavar="K",
        help="batches that make one update, as if they were one; default: 1",
    )
    group.add_argument(
        "--label-smoothing",
        type=_setting("label_smoothing"),
        metavar="PART",
        help="of the target that all classes share; default: 0",
    )
    group.add_argument(
        "--ema",
        type=_setting("ema"),
        metavar="DECAY",
        help="keep an exponential average of the weights, test it too, and predict with it",
    )
    group.add_argument(
        "--validation",
        type=_setting("validation"),
        metavar="FRACTION",
        help="test on so many of the training images, held out, instead of the test set",
    )
    group.add_argument(
        "--patience",
        type=_setting("patience"),
        metavar="EPOCHS",
        help="stop after so many without a better accuracy",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--algorithm",
        choices=("auto", *algorithms()),
        default="auto",
        help="of the convolutions; default: %(default)s",
    )
    group.add_argument(
        "--sync-batch-norm",
        action="store_true",
        default=None,
        help="normalise by the batches of all ranks together, not by each rank's own",
    )
    group.add_argument(
        "--threads",
        type=_number(int, 1),
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
        type=_number(int, 0),
        metavar="N",
        help="per process, that decode and augment images ahead of their use; default: 1, and 0 "
        "(images are made when they are needed) where there is nothing to decode or augment",
    )
    group.add_argument(
        "--spare-core",
        action="store_true",
        help="keep one core of each process free of convolutions, for these threads alone",
    )


def _option(name: str) -> Callable[[str], float]:
    """Return what reads an option of `ParallelOptions` that is a number."""
    kind, least, most = OPTION_RANGES[name]
    return _number(kind, least, most)


def _add_parallel(group: argparse._ArgumentGroup) -> None:
    """Add the options of `ParallelOptions`; what is not given is not set."""
    group.add_argument(
        "--parallel",
        choices=STRATEGIES,
        dest="strategy",
        help="how they share the work (docs/cluster.md); default: data",
    )
    group.add_argument(
        "--allreduce",
        choices=(AUTO, *ALLREDUCE),
        help="how gradients are summed; default: auto, the fastest of a measurement at the start",
    )
    group.add_argument(
        "--overlap",
        choices=(AUTO, *OVERLAPS),
        help="who moves messages while layers are computed: a thread, the main thread between "
        "layers, or nobody; default: auto",
    )
    group.add_argument(
        "--bucket-mib",
        type=_option("bucket_mib"),
        metavar="MIB",
        help="of gradients that travel together; default: 2",
    )
    group.add_argument("--wire", choices=WIRES, help="how gradients travel; default: float32")
    group.add_argument(
        "--deterministic",
        action="store_true",
        default=None,
        help="sum in the order of the ranks: the same ranks give the same bits each time",
    )
    group.add_argument(
        "--check-every",
        type=_option("check_every"),
        metavar="UPDATES",
        help="compare the weights of all ranks by checksum; default: every epoch, every 100 "
        "updates with --deterministic",
    )
    group.add_argument(
        "--owt-border",
        metavar="LAYER",
        help="of --parallel owt: the first layer that is not data-parallel; default: the first "
        "fully connected one",
    )
    group.add_argument(
        "--owt-scheme", choices=SCHEMES, help="how activations cross the border; default: c"
    )
    group.add_argument(
        "--owt-chunks",
        type=_option("owt_chunks"),
        metavar="K",
        help="pieces of a batch in scheme c; default: as many as ranks",
    )
    group.add_argument(
        "--owt-updates",
        type=_option("owt_updates"),
        metavar="K",
        help="updates of the layers behind the border in each step; default: 1",
    )
    group.add_argument(
        "--staleness",
        type=_option("staleness"),
        metavar="STEPS",
        help="by which gradients may be late, with --parallel async or server; default: 1",
    )
    group.add_argument(
        "--servers",
        type=_option("servers"),
        metavar="N",
        help="ranks that keep a share of the weights, with --parallel server; default: all",
    )
    group.add_argument(
        "--stall-timeout",
        type=_option("stall_timeout"),
        metavar="SECONDS",
        help="end the run, naming the rank, when one does not answer for so long",
    )
    group.add_argument(
        "--elastic",
        action="store_true",
        default=None,
        help="go on with the others when a rank dies (Open MPI, mpiexec --with-ft ulfm)",
    )
    group.add_argument(
        "--timeline",
        metavar="FILE",
        help="record what all ranks do in some steps: https://ui.perfetto.dev opens FILE, "
        "lowerconv timeline draws it and tells how much communication was hidden",
    )
    group.add_argument(
        "--timeline-first",
        type=_option("timeline_first"),
        metavar="N",
        help="first step of it; default: 5",
    )
    group.add_argument(
        "--timeline-count",
        type=_option("timeline_count"),
        metavar="N",
        help="steps in it; default: 10",
    )


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where {LAST}, {BEST}, metrics and curves go; default: runs/MODEL-DATA-NUMBER",
    )
    group.add_argument(
        "--resume",
        action="store_true",
        help=f"go on from {LAST} in --out, by default in the last run of this model and data",
    )
    group.add_argument(
        "--tensorboard", action="store_true", help="write events for TensorBoard too"
    )


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
        parallel, spare = together(communicator, lambda: _prepare(options, communicator))
        trainer = Trainer(
            options.model,
            options.data,
            options.out,
            resume=options.resume,
            tensorboard=options.tensorboard,
            parallel=parallel,
            communicator=communicator,
            reporter=reporter,
            workers=options.loader_threads,
            cpus=spare,
            **{name: getattr(options, name) for name in SETTINGS},  # None where not given
        )
        prepared = True
        history = trainer.fit()
        last, best = history[-1], history[best_epoch(history) - 1]
        averaged = "" if trainer.average is None else " of averaged weights"
        # Another reporter where rank 0 has died, and this one speaks in its place.
        trainer.reporter.say(
            f"{reporter.part} accuracy{averaged} {last.accuracy:.2%} after {last.epoch} epochs, "
            f"best {best.accuracy:.2%} after {best.epoch}, "
            f"{sum(row.seconds for row in history):.0f} s; everything is in {trainer.out}"
        )
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


def _tell(error: Exception, rank: int | None) -> None:
    place = "" if rank is None else f" on rank {rank}"
    if isinstance(error, EXPECTED) or type(error) is RuntimeError:
        text = f"lowerconv: error{place}: {error}\n"
    else:
        text = f"lowerconv: error{place}:\n{traceback.format_exc()}"
    sys.stderr.write(text)  # in one piece: launchers mix what ranks write in several


def _prepare(
    options: argparse.Namespace, communicator: Communicator
) -> tuple[ParallelOptions, Sequence[int] | None]:
    """Return how ranks share the work, and which CPUs are left to the loader's threads."""
    given = {name: getattr(options, name) for name in OPTIONS}
    parallel = ParallelOptions(**{k: v for k, v in given.items() if v is not None})
    return parallel, _take_cores(options, communicator)


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
