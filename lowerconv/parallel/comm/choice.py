"""Which algorithm sums gradients: the fastest of a short measurement on the links of this job."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lowerconv.parallel.comm.collectives import ALLREDUCE, Allreduce
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.options import AUTO, ParallelOptions

SMALL = 1 << 14  # bytes: latency decides
ROUNDS = 3
HOPELESS = 2.0  # times the best of a first round: no second chance
# Of several at a time a ring's messages all go to the same neighbour; where they do not they share
# links badly: as fast by itself, it hid 91% of GoogLeNet's messages, where direct hid 80%.
PREFERENCE = 0.9


@dataclass(frozen=True)
class Chosen:
    """What was chosen for messages up to each size, and why.

    Attributes
    ----------
    steps : list of (int, str)
        Largest size in bytes, and the algorithm up to it; the last has all larger ones too.
    seconds : dict of int to dict of str to float
        What was measured: by size in bytes and algorithm.
    why : str
    """

    steps: list[tuple[int, str]]
    seconds: dict[int, dict[str, float]] = field(default_factory=dict)
    why: str = ""

    def name_of(self, nbytes: int) -> str:
        """Return the name of the algorithm for a message."""
        for most, name in self.steps:
            if nbytes <= most:
                return name
        return self.steps[-1][1]

    @property
    def longest(self) -> float:
        """Seconds that the largest message takes; 0 where nothing was measured."""
        return max((taken[self.name_of(n)] for n, taken in self.seconds.items()), default=0.0)

    def of(self, nbytes: int) -> Allreduce:
        """Return the algorithm for a message."""
        return ALLREDUCE[self.name_of(nbytes)]

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for _, name in self.steps))
        if len(names) == 1:
            return f"allreduce {names[0]} ({self.why})"
        rules = [f"{name} up to {most / 1024:,.0f} KiB" for most, name in self.steps[:-1]]
        return f"allreduce {', '.join(rules)}, then {self.steps[-1][1]} ({self.why})"


def choose_allreduce(
    engine: Engine, communicator: Communicator, options: ParallelOptions, nbytes: int
) -> Chosen:
    """Return how messages up to `nbytes` are summed; all ranks call it, and choose the same."""
    told = chosen_by_options(options, nbytes)
    if told is not None:
        return told
    if communicator.ranks == 1:
        return Chosen([(nbytes, "ring")], why="one rank")
    sizes = sorted({min(SMALL, nbytes), nbytes})
    seconds = {size: measure(engine, communicator, size) for size in sizes}
    steps = steps_of(seconds)
    slowest = max(seconds[nbytes].values())
    best, mine = seconds[nbytes][steps[-1][1]], seconds[nbytes]["library"]
    return Chosen(
        steps,
        seconds,
        f"measured: {nbytes / 2**20:.3g} MiB in {1e3 * best:.1f} ms, "
        f"the MPI library's {1e3 * mine:.1f}, the slowest {1e3 * slowest:.1f}",
    )


def chosen_by_options(options: ParallelOptions, nbytes: int) -> Chosen | None:
    """Return how messages up to `nbytes` are summed, None where the options leave it open."""
    if options.strategy == "tree":
        return Chosen([(nbytes, "tree")], why="as asked for")
    if options.allreduce != AUTO:
        return Chosen([(nbytes, options.allreduce)], why="as asked for")
    if options.deterministic:
        return Chosen([(nbytes, "direct")], why="deterministic")
    return None


def candidates(hosts: int, ranks: int) -> list[str]:
    """Return the algorithms that are tried: two levels only where some hosts have several ranks."""
    alike = hosts in (0, 1, ranks)
    return [name for name in ALLREDUCE if not (name == "two-level" and alike)]


def steps_of(seconds: dict[int, dict[str, float]]) -> list[tuple[int, str]]:
    """Return the best algorithms, of what was measured: a size and what is best up to it.

    Between two sizes the time is taken to grow evenly: a latency, and bytes over a bandwidth.  The
    MPI library's own cannot overtake others, as it begins in the same order everywhere: for small
    messages alone, which may be urgent, it is not taken.
    """
    small, large = min(seconds), max(seconds)
    weighted = {n: PREFERENCE * t if n == "ring" else t for n, t in seconds[large].items()}
    best = min(weighted, key=weighted.__getitem__)
    if small == large:
        return [(large, best)]
    others = {name: taken for name, taken in seconds[small].items() if name != "library"}
    first = min(others, key=others.__getitem__)
    gain = seconds[small][best] - others[first]
    loss = seconds[large][first] - seconds[large][best]
    if first == best or gain <= 0:
        return [(large, best)]
    return [(round(small + (large - small) * gain / (gain + loss)), first), (large, best)]


def measure(
    engine: Engine,
    communicator: Communicator,
    nbytes: int,
    rounds: int = ROUNDS,
    before: Callable[[], object] = lambda: None,
    summary: Callable[[Sequence[float]], float] = min,
) -> dict[str, float]:
    """Return the seconds that each algorithm takes, on the slowest rank; all ranks call it.

    Parameters
    ----------
    engine : Engine
    communicator : Communicator
    nbytes, rounds : int
    before : callable
        Is called before each sum.
    summary : callable
        Of the seconds of some rounds: by default the best.
    """
    array = np.zeros(max(1, nbytes // 4), np.float32)
    names = candidates(len(engine.hosts or ()), communicator.ranks)
    found: dict[str, list[float]] = {name: [] for name in names}
    best = dict.fromkeys(names, float("inf"))
    for number in range(rounds + 1):
        for name in names:
            if number > 1 and best[name] > HOPELESS * min(best.values()):
                continue
            before()
            communicator.sum_numbers(0)
            begin = time.perf_counter()
            engine.run(lambda link, f=ALLREDUCE[name]: f(link, array), name, nbytes)  # type: ignore[misc]
            taken = max(communicator.gather(time.perf_counter() - begin))
            if number:  # the first opens connections, and takes memory
                found[name].append(taken)
                best[name] = min(found[name])
    return {name: summary(taken) for name, taken in found.items()}
