"""How many images per second one, two and four Python threads classify that share a network.

``python -m bench.shared_network`` prints the table of docs/threads.md.  All kernels run on the same
team of threads, and callers take turns: more callers should neither gain nor lose.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from statistics import median

import numpy as np

import lowerconv as lc
from lowerconv.nn.models import MODELS

CALLERS = (1, 2, 4)


def images_per_second(
    call: Callable[[np.ndarray], np.ndarray], x: np.ndarray, callers: int, seconds: float
) -> float:
    """Return what so many threads get done that call a function for some seconds."""
    begin, end = threading.Barrier(callers + 1), threading.Event()
    calls = [0] * callers

    def work(number: int) -> None:
        mine = x.copy()
        begin.wait()
        while not end.is_set():
            call(mine)
            calls[number] += 1

    crew = [threading.Thread(target=work, args=[number]) for number in range(callers)]
    for thread in crew:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    end.set()
    for thread in crew:
        thread.join()
    return sum(calls) * len(x) / (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["cifar10_quick", "resnet20"]
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each, of which the median")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    options = parser.parse_args()
    print(
        f"{lc.get_num_threads()} threads compute; images/s, of {options.rounds} turns the median\n"
    )
    print(
        "| network, batch | called as, by so many threads | " + " | ".join(map(str, CALLERS)) + " |"
    )
    print("|---|---|" + "---|" * len(CALLERS))
    for model in options.models:
        for batch in options.batches:
            network = MODELS[model].build()
            x = np.random.default_rng(0).standard_normal(
                (batch, *MODELS[model].image_shape), np.float32
            )
            ways = {"`net(x)`": network, "`net.compile(...)`": network.compile(x.shape)}
            found: dict[tuple[str, int], list[float]] = {
                (way, callers): [] for way in ways for callers in CALLERS
            }
            for call in ways.values():
                call(x)  # compiles
            for _ in range(options.rounds):
                for (way, callers), rates in found.items():
                    rates.append(images_per_second(ways[way], x, callers, options.seconds))
            for way in ways:
                cells = (f"{median(found[way, callers]):,.0f}" for callers in CALLERS)
                print(f"| {model}, {batch} | {way} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
