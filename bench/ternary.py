"""Convolutions with ternary weights: sums that skip zeros beside products of bytes.

python -m bench.ternary [--batch 1] [--share 0.55] [--rounds 9]

The processor's time of a call, on one thread, of both algorithms in turns; the best of all rounds.
Weights are random, and a share of them is not zero: of numbers that are normally distributed a
threshold of 0.7 times their mean magnitude leaves 0.58.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from lowerconv.codegen.isa import host_isa_extended
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.words.integer import IntegerConv

# Of ResNet-20 (CIFAR-10) and ResNet-50: channels, filters, rows and columns, size, stride.
LAYERS = {
    "resnet20, 1st part": (16, 16, 32, 3, 1),
    "resnet20, 2nd part": (32, 32, 16, 3, 1),
    "resnet20, 3rd part": (64, 64, 8, 3, 1),
    "resnet50, 3x3 of 56 x 56": (64, 64, 56, 3, 1),
    "resnet50, 3x3 of 28 x 28": (128, 128, 28, 3, 1),
    "resnet50, 3x3 of 14 x 14": (256, 256, 14, 3, 1),
    "resnet50, 3x3 of 7 x 7": (512, 512, 7, 3, 1),
    "resnet50, 3x3, stride 2": (128, 128, 56, 3, 2),
    "resnet50, 1x1 of 56 x 56": (64, 256, 56, 1, 1),
    "resnet50, 1x1 of 14 x 14": (1024, 256, 14, 1, 1),
    "resnet50, 1x1 of 7 x 7": (512, 2048, 7, 1, 1),
}
SECONDS = 0.02  # of a measurement
ALGORITHMS = ("fused", "ternary")


def _measured(
    layer: tuple[int, ...], batch: int, share: float, rounds: int
) -> tuple[dict[str, float], str]:
    """Return the seconds of a call by algorithm, and which one "auto" takes."""
    C, K, H, R, stride = layer
    rng = np.random.default_rng(0)
    w = rng.choice(np.array([-1, 0, 1], np.int8), (K, C, R, R), p=[share / 2, 1 - share, share / 2])
    x = rng.integers(0, 2**32, (batch, -(-C // 4), H, H), np.uint32)
    plans = {}
    for algorithm in (*ALGORITHMS, "auto"):
        plan = IntegerConv(
            conv_problem((batch, C, H, H), w.shape, stride, R // 2),
            nonzero=int(np.count_nonzero(w)),
            algorithm=algorithm,
        )
        plan.prepack(w, np.full(K, 1e-3, np.float32), np.full(K, 30, np.float32))
        plans[algorithm] = plan
    out = plans["auto"](x)
    best = dict.fromkeys(ALGORITHMS, np.inf)
    for _ in range(rounds):
        for algorithm in ALGORITHMS:
            calls, begin = 0, time.process_time()
            while time.process_time() - begin < SECONDS:
                plans[algorithm](x, out=out)
                calls += 1
            best[algorithm] = min(best[algorithm], (time.process_time() - begin) / calls)
    return best, plans["auto"].algorithm


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each layer."""
    parser = argparse.ArgumentParser(prog="python -m bench.ternary", description=__doc__)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.55, help="of weights that are not zero")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args(arguments)
    lc.set_num_threads(1)
    columns = "layer", "fused, us", "ternary, us", "times faster", "auto"
    table = Table(*columns, title=host_isa_extended().name)
    gains = []
    for name, layer in LAYERS.items():
        best, taken = _measured(layer, options.batch, options.share, options.rounds)
        gains.append(best["fused"] / best["ternary"])
        numbers = [f"{best[algorithm] * 1e6:.0f}" for algorithm in ALGORITHMS]
        table.add_row(name, *numbers, f"{gains[-1]:.2f}", taken)
    table.add_row("geometric mean", "", "", f"{np.exp(np.mean(np.log(gains))):.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
