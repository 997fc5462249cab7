"""``lowerconv predict-time``: how long training will take on a cluster, before it is tried."""

from __future__ import annotations

import argparse
import sys
import traceback

from rich.table import Table

from lowerconv.arguments import Number, Place, add_arguments, reader
from lowerconv.bench.show import NONE, ms, new_table, percent
from lowerconv.cli import mistakes, predict_time_picture
from lowerconv.console import PlainConsole
from lowerconv.machine.variables import THREADS_MAX
from lowerconv.nn.models import MODELS
from lowerconv.parallel.comm.agreement import DisagreementError
from lowerconv.parallel.comm.communicator import Communicator, MPIError
from lowerconv.parallel.comm.mpi_communicator import launched_rank
from lowerconv.parallel.comm.together import together
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibrate import calibrate, merge
from lowerconv.predict.calibration import Calibration, load, save
from lowerconv.predict.collective_costs import Links
from lowerconv.predict.resources import Plan, Target, advice, assumed_network, duration, explore
from lowerconv.printable import printable
from lowerconv.runtime.threads import set_num_threads
from lowerconv.train.settings import Settings
from lowerconv.train.setup import Setup, join, read

EXPECTED = (*mistakes.EXPECTED, DisagreementError, RuntimeError)
RANKS = (1, 2, 4, 8, 16)
SETTINGS = ("epochs", "optimizer", "augment", "precision", "algorithm")  # what is measured
OPTIONS = (
    "strategy",
    "allreduce",
    "overlap",
    "bucket_mib",
    "staleness",
    "deterministic",
    "servers",
    "owt_border",
    "owt_scheme",
    "owt_chunks",
    "owt_updates",
)
WIDTH = 120  # columns of the table
LATENCY = 50.0  # microseconds of a message, where nobody says
POSITIVE = Number(float, 1e-6, 1e9)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "predict-time",
        help="tell how long training will take on more ranks, and which resources are best",
        description="Predict steps, epochs and runs over numbers of ranks and batches, from a "
        "calibration: a short measurement. Under mpiexec, with ranks of one host "
        "or one rank on each host, links and the ranks' slowdown are measured too.",
    )
    parser.add_argument("--model", choices=MODELS, help="default: that of the calibration; lenet")
    parser.add_argument("--data", metavar="SPEC", help="as of lowerconv train; its default, too")
    add_arguments(parser, Settings, SETTINGS)
    _add_measuring(parser.add_argument_group("calibration"))
    _add_cluster(parser.add_argument_group("cluster"))
    add_arguments(parser.add_argument_group("how ranks share the work"), ParallelOptions, OPTIONS)
    _add_targets(parser.add_argument_group("what is best"))
    parser.add_argument(
        "--plot", type=reader(Place("a picture")), metavar="PNG", help="draw time and efficiency"
    )
    parser.set_defaults(func=run)


def _add_measuring(group: argparse._ArgumentGroup) -> None:
    files = group.add_mutually_exclusive_group()
    files.add_argument(
        "--calibration",
        type=reader(Place("a calibration")),
        metavar="FILE",
        help="read what --calibrate has written, here or on another machine",
    )
    files.add_argument(
        "--calibrate",
        type=reader(Place("a calibration")),
        metavar="FILE",
        help="measure, and write FILE; links that a file of the same network has already, and "
        "that are not measured now, are kept. With neither, measure and keep nothing",
    )
    group.add_argument(
        "--threads",
        type=reader(Number(int, 1, THREADS_MAX)),
        metavar="N",
        help="of a rank that is measured; default: its share of the cores",
    )


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    count = reader(Number(int, 1, 1 << 20))
    group.add_argument(
        "--ranks",
        type=count,
        nargs="+",
        default=RANKS,
        metavar="N",
        help=f"default: {' '.join(map(str, RANKS))}",
    )
    group.add_argument(
        "--batch",
        type=reader(Number(int, 1)),
        nargs="+",
        metavar="N",
        help="images of all ranks together; default: the model's, with --max-batch also larger",
    )
    group.add_argument(
        "--ranks-per-node",
        type=count,
        metavar="N",
        help="default: as many as the cores of a host have room for",
    )
    group.add_argument(
        "--spare-core",
        action="store_true",
        help="each rank has a core more, which its layers leave to messages",
    )
    group.add_argument(
        "--gbit",
        type=reader(POSITIVE),
        metavar="RATE",
        help="take links between hosts to have so many Gbit/s, where none have been measured",
    )
    group.add_argument(
        "--latency-us",
        type=reader(POSITIVE),
        metavar="US",
        help=f"... and messages so many microseconds; default: {LATENCY:g}",
    )


def _add_targets(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--target-hours", type=reader(POSITIVE), metavar="H", help="be done in H")
    group.add_argument(
        "--budget-node-hours", type=reader(POSITIVE), metavar="H", help="hosts times hours, at most"
    )
    group.add_argument(
        "--max-batch", type=reader(Number(int, 1)), metavar="N", help="images of all ranks, at most"
    )


def run(options: argparse.Namespace) -> int:
    """Measure and predict as told; returns the exit status."""
    try:
        communicator = join() if options.calibration is None else Communicator()
    except MPIError as error:
        return 1 if launched_rank() else mistakes.tell(error)
    chief = communicator.rank == 0
    try:
        parallel = together(communicator, lambda: _check(options))
        if options.calibration is not None:
            if launched_rank():
                return 0
            known = _checked(options, load(options.calibration))
        else:
            known = _measure(options, communicator)
        if not chief:
            return 0
        plan = _explore(options, parallel, known)
        show(plan, options)
    except EXPECTED as error:
        return mistakes.tell(error) if chief else 1
    return 0


def _check(options: argparse.Namespace) -> ParallelOptions:
    """Return how ranks share the work, after all that can be told before anything is measured."""
    for name in ("threads", "optimizer", "augment", "precision", "algorithm"):
        if options.calibration is not None and getattr(options, name) is not None:
            raise ValueError(f"--{name}: got it with --calibration, expected it when measuring")
    if options.latency_us is not None and options.gbit is None:
        raise ValueError("--latency-us: got it without --gbit, expected both")
    if options.plot is not None:
        predict_time_picture.check_picture(options.plot)
    if options.calibrate is not None and not options.calibrate.parent.is_dir():
        raise FileNotFoundError(f"--calibrate: {options.calibrate.parent}: no such folder")
    if options.threads is not None:
        try:
            set_num_threads(options.threads)
        except ValueError as error:
            raise ValueError(f"--threads: {error}") from None
    given = {name: getattr(options, name) for name in OPTIONS}
    return ParallelOptions(**{name: value for name, value in given.items() if value is not None})


def _checked(options: argparse.Namespace, known: Calibration) -> Calibration:
    """Return a calibration that was read, if it is of what was asked for."""
    for name in ("model", "data"):
        asked, found = getattr(options, name), getattr(known.network, name)
        if asked not in (None, found):
            raise ValueError(
                f"--{name}: got {asked!r} with a calibration of {found!r}, expected the same"
            )
    return known


def _measure(options: argparse.Namespace, communicator: Communicator) -> Calibration:
    """Measure on all ranks of this job; rank 0 writes the file."""
    chief = communicator.rank == 0
    given = {name: getattr(options, name) for name in SETTINGS}

    def prepare() -> tuple[Setup, Calibration | None]:
        model, data = options.model or "lenet", options.data or "fashion-mnist"
        setup = read(model, data, "data", given)
        path = options.calibrate
        return setup, load(path) if chief and path is not None and path.exists() else None

    setup, before = together(communicator, prepare)
    batches = options.batch or [setup.settings.batch]
    shares = chosen_shares([-(-b // r) for b in batches for r in options.ranks if r <= b])
    console = PlainConsole()

    def say(text: str) -> None:
        if chief:
            console.print(text, soft_wrap=True)

    try:
        found = calibrate(communicator, setup, shares, say)
    except Exception:
        if communicator.ranks > 1:  # others may be waiting for this one
            traceback.print_exc()
            communicator.abort()
        raise
    if chief and options.calibrate is not None:
        found = found if before is None else merge(before, found)
        save(found, options.calibrate)
        say(f"calibration: {printable(options.calibrate)}")
    return found


def chosen_shares(shares: list[int], most: int = 4) -> list[int]:
    """Return at most so many of some numbers of images, the ends and some in between, ascending."""
    known = sorted(set(shares))
    if len(known) <= most:
        return known
    last = len(known) - 1
    return sorted({known[round(i * last / (most - 1))] for i in range(most)})


def _explore(options: argparse.Namespace, parallel: ParallelOptions, known: Calibration) -> Plan:
    links = known.links_by_kind()
    if options.gbit is not None:
        latency = 1e-6 * (options.latency_us or LATENCY)
        links = Links(links.host, assumed_network(options.gbit, latency, links.host))
    batches = options.batch
    if batches is None:
        batches = [known.network.batch]
        while options.max_batch and 2 * batches[-1] <= options.max_batch:
            batches.append(2 * batches[-1])
    return explore(
        known,
        parallel,
        options.ranks,
        batches,
        per_host=options.ranks_per_node,
        links=links,
        spare=options.spare_core,
        epochs=options.epochs,
    )


def show(plan: Plan, options: argparse.Namespace) -> None:
    """Print the table and the sentences; draw, if asked to."""
    console = PlainConsole(WIDTH)
    facts = plan.calibration.network
    console.print(table(plan))
    target = Target(options.target_hours, options.budget_node_hours, options.max_batch)
    lines = [
        f"calibrated on {plan.calibration.cpu}, {facts.threads} thread"
        f"{'s' * (facts.threads > 1)} of {facts.cores} cores for a rank",
        "exposed: communication that the main thread waits for or moves; hidden: the share of it "
        "that costs nothing; skew: waiting for the slowest rank; MiB: memory of a rank",
    ]
    if not plan.calibration.crowds and any(min(r.step.ranks, r.per_host) > 1 for r in plan.rows):
        lines.append(
            "not measured: how much ranks of a host slow each other down; taken to be not at all"
        )
    if options.gbit is not None:
        lines.append(
            f"links between hosts were not measured: taken to have {options.gbit:g} Gbit/s"
        )
    for line in (*lines, *(f"left out: {line}" for line in plan.left_out), *advice(plan, target)):
        console.print(printable(line), soft_wrap=True)
    if options.plot is not None:
        predict_time_picture.draw(plan, options.plot)
        console.print(f"drawn: {printable(options.plot)}", soft_wrap=True)
    sys.stdout.flush()


def table(plan: Plan) -> Table:
    """Return a row for each number of ranks and each batch."""
    facts = plan.calibration.network
    late = any(row.step.staleness for row in plan.rows)
    found = new_table(
        f"{printable(facts.model)} on {printable(facts.data)}, strategy {plan.options.strategy}: "
        "predicted, ms of a step",
        ["ranks", "nodes", "batch"],
        [
            *("step", "compute", "exposed", "skew", "input", "hidden", "images/s"),
            *("efficiency", "epoch", f"{plan.epochs} epochs", "MiB"),
            *(["stale"] if late else []),
        ],
    )
    for row in plan.rows:
        step = row.step
        parts = (step.seconds, step.compute, step.exposed, step.skew, step.input)
        mean = step.staleness_mean
        found.add_row(
            *(str(step.ranks), str(step.hosts), str(step.batch)),
            *(ms(seconds) if seconds else NONE for seconds in parts),
            percent(step.hidden),
            f"{step.images_per_second:,.0f}",
            percent(row.efficiency),
            duration(step.epoch_seconds),
            duration(3600 * row.hours),
            f"{step.nbytes / 2**20:,.0f}" + "!" * (not row.fits),
            *([NONE if mean is None else f"{mean:.2f}"] if late else []),
        )
    return found
