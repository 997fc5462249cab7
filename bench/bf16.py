"""Networks in bf16 beside float32, PyTorch's bf16 autocast and OpenVINO's bf16, timed in turns.

    python -m bench.bf16 [--models resnet50 googlenet vgg16] [--passes training inference]
                         [--batches 1 16] [--threads 2] [--rounds 5] [--seconds 2]

What is printed are times over those of our network in bf16: above 1 it is faster.  ``float32`` is
the same network of this library; PyTorch runs channels-last, its better layout for bf16.  OpenVINO
is inference alone.  ``memory`` is the arena of our step over that of float32: activations,
gradients and scratch, without parameters; what a process takes ``bench.network_memory`` measures.
"""

from __future__ import annotations

import argparse

from bench import peers, ratios
from bench.network_peers import (
    AUTOCAST,
    BF16,
    INFERENCE,
    OPENVINO_BF16,
    OURS,
    TRAINING,
    candidate,
    image_shape,
    options_of,
)
from lowerconv.bench.interleaved import SETTLE, times
from lowerconv.bench.load import Others
from lowerconv.nn.models import MODELS

DEFAULT = ("resnet50", "googlenet", "vgg16")
TITLES = {OURS: "float32", AUTOCAST: "PyTorch autocast", OPENVINO_BF16: "OpenVINO bf16"}
NEEDS = {OURS: (), AUTOCAST: ("torch",), OPENVINO_BF16: ("torch", "onnx", "openvino")}


def memory(model: str, batch: int, op: str) -> float:
    """Return the memory of our step in bf16 over that in float32."""
    network = MODELS[model].build(**options_of(model))
    shape, arena = (batch, *image_shape(model)), {}
    for precision in ("float32", "bf16"):
        network.precision = precision
        arena[precision] = network.memory_report(shape, training=op == TRAINING).arena
    return arena["bf16"] / arena["float32"]


def measure(model: str, batch: int, op: str, options: argparse.Namespace) -> ratios.Row:
    """Return the times of all candidates."""
    names = [
        name
        for name, needed in NEEDS.items()
        if not any(map(peers.is_missing, needed)) and (op == INFERENCE or name != OPENVINO_BF16)
    ]
    runs = {name: candidate(name, model, batch, op, options.threads) for name in (BF16, *names)}
    others = Others()
    seconds = times(runs, options.seconds, SETTLE, options.rounds)
    name, ratio = f"{model}, {batch}", memory(model, batch, op)
    return {"name": name, "seconds": seconds, "memory": ratio, "others": others.cores()}


def main() -> None:
    """Measure, and print a table for each pass."""
    parser = ratios.parser(__doc__, MODELS, DEFAULT)
    passes = (TRAINING, INFERENCE)
    parser.add_argument("--passes", nargs="+", choices=passes, default=passes)
    options = parser.parse_args()
    console, every = ratios.console_of(options), []
    for op in options.passes:
        rows = []
        for model in options.models:
            for batch in options.batches:
                rows.append(measure(model, batch, op, options))
                console.print(op, ratios.table_of(rows[-1:], BF16, TITLES, ["memory"]), sep="\n")
        console.print(op, ratios.table_of(rows, BF16, TITLES, ["memory"]), sep="\n")
        every += rows
    ratios.tell_disturbed(console, every)


if __name__ == "__main__":
    main()
