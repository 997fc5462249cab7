"""Networks of 8-bit integers beside float32, ONNX Runtime and OpenVINO, all timed in turns.

    python -m bench.int8 [--models resnet50 googlenet mobilenet_v2] [--batches 1 16]
                         [--threads 2] [--rounds 5] [--seconds 2]

`lowerconv.quantize` makes each network; the others read the QDQ file that it writes, so that all
compute the same.  What is printed are times over ours: above 1 we are faster.  ``float32`` is the
same network before, of this library.
"""

from __future__ import annotations

import argparse
import io

import numpy as np

import lowerconv as lc
from bench import peers, ratios
from bench.network_peers import NETWORKS, data, image_shape, options_of, torch_network
from lowerconv import nn
from lowerconv.bench.interleaved import SETTLE, Run, times
from lowerconv.bench.load import Others
from lowerconv.nn.models import MODELS
from lowerconv.onnx.fallback import open_session

OURS, FLOAT, ORT, OPENVINO = "lowerconv int8", "float32", "ONNX Runtime int8", "OpenVINO int8"
TITLES = {name: name for name in (FLOAT, ORT, OPENVINO)}
CALIBRATION = 8  # images


def network_of(model: str) -> nn.Module:
    """Return a network of random weights, with statistics of batch norm as they make them."""
    if model in MODELS:
        network = MODELS[model].build(**options_of(model))
        network.initialize(np.random.default_rng(1))
    else:
        import torch

        torch.manual_seed(1)
        made = torch_network(model).train()
        network = lc.torch.to_native(made, torch.zeros(2, *image_shape(model)))
    images, _ = data(model, CALIBRATION)
    network.run(images, nn.Step(training=True))
    return network


def runs_of(model: str, batch: int, threads: int) -> dict[str, Run]:
    """Return a call of each candidate."""
    network = network_of(model)
    integer = lc.quantize(network, data(model, CALIBRATION)[0])
    images, _ = data(model, batch)
    plain, quantized, file = network.compile(images.shape), integer.compile(images.shape), None
    runs: dict[str, Run] = {OURS: lambda: quantized(images), FLOAT: lambda: plain(images)}
    if not peers.is_missing("onnx"):
        file = io.BytesIO()
        integer.save_onnx(file, images.shape)
    if file is not None and not peers.is_missing("onnxruntime"):
        session = open_session(file.getvalue(), "bench.int8")
        name = session.get_inputs()[0].name
        runs[ORT] = lambda: session.run(None, {name: images})
    if file is not None and not peers.is_missing("openvino"):
        runs[OPENVINO] = peers.openvino(file.getvalue(), {"x": images}, threads)
    return runs


def measure(model: str, batch: int, options: argparse.Namespace) -> ratios.Row:
    """Return the times of all candidates."""
    runs, others = runs_of(model, batch, options.threads), Others()
    seconds = times(runs, options.seconds, SETTLE, options.rounds)
    return {"name": f"{model}, {batch}", "seconds": seconds, "others": others.cores()}


def main() -> None:
    """Measure, and print the table."""
    default = ("resnet50", "googlenet", "mobilenet_v2")
    options = ratios.parser(__doc__, NETWORKS, default).parse_args()
    console, rows = ratios.console_of(options), []
    for model in options.models:
        for batch in options.batches:
            rows.append(measure(model, batch, options))
            console.print(ratios.table_of(rows[-1:], OURS, TITLES))
    console.print(ratios.table_of(rows, OURS, TITLES))
    ratios.tell_disturbed(console, rows)


if __name__ == "__main__":
    main()
