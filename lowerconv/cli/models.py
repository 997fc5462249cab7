"""``lowerconv models``: the networks that come with the library, and what they need."""

from __future__ import annotations

import argparse

import numpy as np
from rich.table import Table

from lowerconv.console import PlainConsole
from lowerconv.nn.graph import Graph
from lowerconv.nn.init import undrawn
from lowerconv.nn.models import MODELS, Model
from lowerconv.nn.recording import arena_bytes


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "models",
        help="list the networks, their parameters, work and memory",
        description="List the networks that lowerconv train knows.",
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Print a row for each model; returns the exit status, 0."""
    table = Table(box=None)
    table.add_column("model")
    for heading in ("image", "classes", "parameters", "GFLOP", "inference\nMiB", "training\nMiB"):
        table.add_column(heading, justify="right")
    for name, model in MODELS.items():
        table.add_row(name, *_cells(model))
    console = PlainConsole(80)
    console.print(table)
    console.print(
        "For one image: GFLOP are those of convolutions and fully connected layers in a forward "
        "pass (an FMA counts two); MiB is the memory of activations, with gradients in training.\n"
        "Parameters count the auxiliary classifiers, which work in training only."
    )
    return 0


def _cells(model: Model) -> list[str]:
    """Return what the table says of a model, after its name."""
    with undrawn():
        network = model.build()
    x_shape = 1, *model.image_shape
    graph = Graph(network, x_shape, np.float32, training=False)
    flops = sum(node.layer.flops(*(value.shape for value in node.operands)) for node in graph.nodes)
    arenas = [arena_bytes(network, x_shape, training) for training in (False, True)]
    return [
        "x".join(map(str, model.image_shape)),
        f"{model.classes:,}",
        f"{sum(p.data.size for p in network.parameters().values()):,}",
        f"{flops / 1e9:.3g}",
        *(f"{arena / 2**20:,.2f}" for arena in arenas),
    ]
