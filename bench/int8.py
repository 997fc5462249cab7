"""Networks of 8-bit integers beside float32, ONNX Runtime and OpenVINO, all timed in turns.

    python -m bench.int8 [--models resnet50 googlenet mobilenet_v2] [--batches 1 16]
                         [--threads 2] [--rounds 5] [--seconds 2]
    python -m bench.int8 --layers googlenet mobilenet_v1 [--select 3x3] [--batches 1 8]

`lowerconv.quantize` makes each network; the others read the QDQ file that it writes, so that all
compute the same.  What is printed are times over ours: above 1 we are faster.  ``float32`` is the
same network before, of this library.  With ``--layers`` a network is one convolution with ReLU, of
those of `lowerconv/bench/cases/`; each takes and returns float32, whoever computes it.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Iterator

import numpy as np

import lowerconv as lc
from bench import peers, ratios
from bench.network_peers import NETWORKS, data, image_shape, options_of, torch_network
from lowerconv import nn
from lowerconv.bench.cases import Layer, layers, networks
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


def runs_of(
    network: nn.Module, calibration: np.ndarray, images: np.ndarray, threads: int
) -> dict[str, Run]:
    """Return a call of each candidate."""
    integer = lc.quantize(network, calibration)
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


def layer_network(layer: Layer) -> nn.Module:
    """Return a convolution with ReLU, of random weights."""
    stride, padding, dilation, groups = layer.arguments
    (_, C, _, _), (K, _, R, S) = layer.x_shape(1), layer.w_shape
    convolution = nn.Conv2d(C, K, (R, S), stride, padding, dilation, groups)
    network = nn.Sequential(convolution, nn.ReLU())
    network.initialize(np.random.default_rng(1))
    return network


def cases(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Run]]]:
    """Yield the name of each case, and a call of each candidate."""
    rng = np.random.default_rng(0)
    for name in options.layers:
        for layer in filter(lambda one: options.select.search(one.name), layers(name)):
            for batch in options.batches:
                network = layer_network(layer)
                images = rng.standard_normal(layer.x_shape(batch), np.float32)
                runs = runs_of(network, images[:CALIBRATION], images, options.threads)
                yield f"{name} {layer.name}, {batch}", runs
    for model in () if options.layers else options.models:
        for batch in options.batches:
            network, (calibration, _) = network_of(model), data(model, CALIBRATION)
            runs = runs_of(network, calibration, data(model, batch)[0], options.threads)
            yield f"{model}, {batch}", runs


def main() -> None:
    """Measure, and print the table."""
    default = ("resnet50", "googlenet", "mobilenet_v2")
    parser = ratios.parser(__doc__, NETWORKS, default)
    parser.add_argument("--layers", nargs="+", choices=networks(), default=[])
    parser.add_argument(
        "--select", type=re.compile, default=re.compile(""), help="layers with such names"
    )
    options = parser.parse_args()
    console, rows = ratios.console_of(options), []
    for name, runs in cases(options):
        others = Others()
        seconds = times(runs, options.seconds, SETTLE, options.rounds)
        rows.append({"name": name, "seconds": seconds, "others": others.cores()})
        console.print(ratios.table_of(rows[-1:], OURS, TITLES))
    console.print(ratios.table_of(rows, OURS, TITLES))
    ratios.tell_disturbed(console, rows)


if __name__ == "__main__":
    main()
