"""``lowerconv run``: compute an ONNX file for arrays or pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.cli.network_inputs import load_arrays, load_image
from lowerconv.cli.show import print_layers
from lowerconv.console import PlainConsole
from lowerconv.onnx import load
from lowerconv.printable import printable

TOP = 5  # items of a row that are shown
REPEATS = 5


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "run",
        help="compute an ONNX file for arrays or pictures",
        description="Compute the outputs of an ONNX file. Of pictures the values are from 0 to 1; "
        "they are resized to what the file declares.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL.onnx")
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE")
    parser.add_argument(
        "--input",
        type=Path,
        action="append",
        default=[],
        metavar="X.npy",
        help="an input; again for each further one",
    )
    parser.add_argument("--output", type=Path, metavar="Y.npz", help="write the outputs there")
    parser.add_argument("--profile", action="store_true", help="print the time of each layer")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Compute as told; returns the exit status."""
    console = PlainConsole(100)
    try:
        if bool(options.images) == bool(options.input):
            raise ValueError("run: expected either pictures or --input")
        network = load(options.model)
        batches = [[load_image(path, network)] for path in options.images]
        batches += [load_arrays(options.input)] if options.input else []
        found: dict[str, Any] = {}
        for i, arrays in enumerate(batches):
            results = network(*arrays)
            results = results if isinstance(results, tuple) else (results,)
            if options.images:
                print(printable(options.images[i]))
            for name, result in zip(network.output_names, results, strict=True):
                print(_line(name, result))
                found[name if len(batches) == 1 else f"{i}/{name}"] = result
        if options.output:
            with options.output.open("wb") as file:
                np.savez(file, **found)
        if options.profile:
            print_layers(console, network.explain(*batches[0], repeats=REPEATS))
    except (*EXPECTED, TypeError, ImportError) as error:
        return tell(error)
    return 0


def _line(name: str, array: np.ndarray) -> str:
    """Tell what an output is like; of a single row, where its largest items are."""
    text = f"  {printable(name)}: {array.dtype} {array.shape}"
    if not array.size or array.dtype.kind not in "fiu":
        return text
    text += f", {array.min():.6g} to {array.max():.6g}"
    if array.ndim == 2 and len(array) == 1 and array.shape[1] > 1:
        best = np.argsort(-array[0], kind="stable")[:TOP]
        text += ", largest " + ", ".join(f"{i}: {array[0, i]:.4g}" for i in best)
    return text
