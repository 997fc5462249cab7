"""How far the losses of converted networks are from PyTorch's, over a hundred steps of training.

    python -m bench.hundred_steps [MODEL ...] [--batch 4] [--pixels 64] [--rate 0.001] [--threads 2]

Each step has another batch of random images, the same for all; SGD with momentum 0.9; dropout is
left out, as its random numbers are others.  Printed is the largest difference of a loss, over that
loss: of the converted network from PyTorch's, in float32 and float64, and, as the yardstick, of
PyTorch's float32 from its own float64.  No float32 implementation can be expected nearer to
another one than that.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench import torch_networks
from bench.network_peers import NETWORKS, options_of

STEPS = 100
DEFAULT = ("resnet50", "googlenet", "vgg16", "mobilenet_v2")


def losses(network: Any, batch: int, pixels: int, rate: float) -> np.ndarray:
    """Return the loss of each step."""
    import torch

    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    kind = next(network.parameters()).dtype
    found = []
    for _ in range(STEPS):
        images = torch.randn(batch, 3, pixels, pixels, generator=draw, dtype=torch.float64)
        labels = torch.randint(1000, (batch,), generator=draw)
        loss = torch.nn.functional.cross_entropy(network(images.to(kind)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return np.array(found)


def differences(model: str, batch: int, pixels: int, rate: float) -> list[float]:
    """Return those of the columns of the table."""
    import torch

    torch.manual_seed(1)
    build = getattr(torch_networks, model)
    network = build(image_shape=(3, pixels, pixels), **options_of(model)).train()
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    found = {}
    for kind in (torch.float32, torch.float64):
        images = torch.zeros(batch, 3, pixels, pixels, dtype=kind)
        theirs, ours = (copy.deepcopy(network).to(kind) for _ in range(2))
        converted = lc.torch.convert(ours, images, strict=True)
        found["ours", kind] = losses(converted, batch, pixels, rate)
        found["theirs", kind] = losses(theirs, batch, pixels, rate)

    def apart(a: Any, b: Any) -> float:
        return float((np.abs(found[a] - found[b]) / np.abs(found[b])).max())

    single, double = torch.float32, torch.float64
    return [
        apart(("ours", single), ("theirs", single)),
        apart(("theirs", single), ("theirs", double)),
        apart(("ours", single), ("theirs", double)),
        apart(("ours", double), ("theirs", double)),
    ]


def main() -> None:
    """Print a table."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"by default {DEFAULT}")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    options = parser.parse_args()
    wrong = [model for model in options.models if model not in NETWORKS]
    if wrong:
        parser.error(f"got {wrong[0]}, expected of {', '.join(NETWORKS)}")
    lc.set_num_threads(options.threads)
    table = Table(title=f"largest difference of a loss in {STEPS} steps, over that loss")
    table.add_column("network")
    table.add_column("convert, float32")
    table.add_column("PyTorch float32, of its float64")
    table.add_column("convert float32, of PyTorch float64")
    table.add_column("convert, float64")
    for model in options.models or DEFAULT:
        row = differences(model, options.batch, options.pixels, options.rate)
        table.add_row(model, *(f"{value:.1e}" for value in row))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
