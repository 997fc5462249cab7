"""Images divided by rows, beside one rank with all of them: speed-up, and what of halos is hidden.

    python -m bench.hosts 2 --gbit 1 -- python -m bench.spatial [--model resnet18]
                       [--image 1080 1920] [--batch 1] [--steps 3] [--turns 3]
                       [--emulate GFLOPS] [--gbytes 10] [--set NAME=VALUE ...]

A step trains on a batch of random images in memory.  Ranks that train alone, each on the whole
batch and without messages, and all ranks together, on that same batch, take turns of some steps;
the slowest rank counts.  With ``--emulate`` layers and updates sleep as long as a machine of so
many GFLOP/s for products and ``--gbytes`` GB/s for everything else would take (`bench.emulated`);
messages are real, those of batch norm too.

How much of the halos is hidden: ``1 - waits / waits of still steps``, where a still step sends the
same messages and computes nothing, so that nothing can hide them.
"""

from __future__ import annotations

import argparse
import os
import statistics

import lowerconv as lc
from bench.emulated import Machine
from bench.hosts import ON_ONE_MACHINE
from bench.scaling import SETTLE, options_for
from bench.scaling_steps import Contender
from lowerconv.nn.models import MODELS
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.mpi_communicator import world
from lowerconv.runtime.affinity import set_share

KINDS = ("seconds", "waits", "halo_waits", "sent")


def turn(communicator: Communicator, contender: Contender, steps: int, still: bool) -> list[float]:
    """Return of a step what `KINDS` names, each of the rank that has most."""
    communicator.gather(None)
    taken = (contender.still_turn if still else contender.turn)(steps)
    everywhere = communicator.gather([taken[kind] for kind in KINDS])
    return [max(column) for column in zip(*everywhere, strict=True)]


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.spatial",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", choices=list(MODELS), default="resnet18")
    parser.add_argument("--image", type=int, nargs=2, default=(1080, 1920), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1, help="images (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="of a turn (%(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each way (%(default)s)")
    parser.add_argument("--threads", type=int, help="of each rank; default: its share of the cores")
    parser.add_argument("--emulate", type=float, metavar="GFLOPS", help="sleep, do not compute")
    parser.add_argument("--gbytes", type=float, default=10.0, help="emulated GB/s (%(default)s)")
    settings = "options of the strategy, such as overlap=none"
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help=settings)
    options = parser.parse_args()
    communicator = world()
    ranks = communicator.ranks
    if ranks > 1:
        set_share(communicator.cpus)
    if options.threads:
        lc.set_num_threads(options.threads)
    image = (3, *options.image)
    ways: dict[str, Contender] = {}
    for name, how in (("alone", None), ("spatial", options_for("spatial", options.set))):
        machine = Machine(options.emulate, options.gbytes) if options.emulate else None
        ways[name] = Contender(options.model, how, options.batch, ranks, machine, image)
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for contender in ways.values():
        contender.turn(SETTLE)
    for _ in range(options.turns):
        for name, contender in ways.items():
            taken[name].append(turn(communicator, contender, options.steps, False))
    still = turn(communicator, ways["spatial"], options.steps, True)
    if communicator.rank == 0:
        tell(options, communicator, ways["spatial"], taken, still)
    for contender in ways.values():
        contender.close()


def tell(
    options: argparse.Namespace,
    communicator: Communicator,
    contender: Contender,
    taken: dict[str, list[list[float]]],
    still: list[float],
) -> None:
    """Print what was measured."""
    median = {
        name: dict(zip(KINDS, map(statistics.median, zip(*turns, strict=True)), strict=True))
        for name, turns in taken.items()
    }
    alone, spatial = median["alone"], median["spatial"]
    speedups = [a[0] / s[0] for a, s in zip(taken["alone"], taken["spatial"], strict=True)]
    of_still = dict(zip(KINDS, still, strict=True))
    H, W = options.image
    how = "real computation"
    if options.emulate:
        how = f"EMULATED computation, {options.emulate:g} GFLOP/s, {options.gbytes:g} GB/s"
    gbit = os.environ.get(ON_ONE_MACHINE)
    links = f", links of {gbit} Gbit/s" if gbit else ""
    hosts = len(communicator.hosts)
    print(f"{options.model}, 3x{H}x{W}, batch {options.batch}: {how}")
    print(
        f"{communicator.ranks} ranks on {hosts} hosts{links}; {lc.machine_report()['cpu']['name']}"
    )
    print(f"spatial: {contender.strategy.describe()}")
    print(f"alone             {1e3 * alone['seconds']:8.1f} ms a step")
    print(f"spatial           {1e3 * spatial['seconds']:8.1f} ms a step")
    print(f"speed-up          {statistics.median(speedups):8.2f} of {communicator.ranks}")
    print(f"sent              {spatial['sent'] / 1e6:8.1f} MB a step")
    for kind, label in (("halo_waits", "halos"), ("waits", "all messages")):
        waits, most = spatial[kind], of_still[kind]
        share = f"{1 - waits / most:.1%} hidden" if most > 0 else "nothing to hide"
        print(f"{label:14s}    waited {1e3 * waits:.1f} of {1e3 * most:.1f} ms: {share}")


if __name__ == "__main__":
    main()
