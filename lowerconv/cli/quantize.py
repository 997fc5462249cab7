"""``lowerconv quantize``: a trained network as one of 8-bit integers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.data import load
from lowerconv.data.loader import Loader
from lowerconv.data.source import Source
from lowerconv.data.split import Subset
from lowerconv.quant import quantize
from lowerconv.quant.observe import METHODS, PERCENTILE
from lowerconv.train.checkpoint import BEST
from lowerconv.train.classifier import Classifier

IMAGES = 512
BATCH = 32


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "quantize",
        help="make 8-bit integers of a trained network",
        description="Write a trained network as one that computes with 8-bit integers. Some of "
        "the training images tell which range of numbers they stand for. Test the file with "
        "lowerconv evaluate.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help=f"such as {Path('DIR') / BEST}"
    )
    parser.add_argument(
        "--data", required=True, metavar="SPEC", help="as for train; its training part counts"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="a .safetensors file; or .onnx, with QuantizeLinear and DequantizeLinear",
    )
    parser.add_argument(
        "--images", type=int, default=IMAGES, metavar="N", help=f"to calibrate with ({IMAGES})"
    )
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument(
        "--percentile",
        type=float,
        default=PERCENTILE,
        metavar="P",
        help=f"numbers of 100 that are within the range, for that method ({PERCENTILE})",
    )
    parser.add_argument("--weight-bits", type=int, default=8, metavar="N", help="2 to 8")
    parser.add_argument(
        "--skip-first", action="store_true", help="leave the first convolution in float32"
    )
    parser.add_argument(
        "--skip-last", action="store_true", help="leave the last layer with weights in float32"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="LAYER",
        help="leave this one in float32; again for each further one",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse a network of which anything else is left so"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Quantize as told; returns the exit status."""
    try:
        if options.images < 1:
            raise ValueError(f"--images: got {options.images}, expected at least 1")
        if options.out.suffix not in (".safetensors", ".onnx"):
            raise ValueError(
                f"--out: got {options.out}, expected a name with .safetensors or .onnx"
            )
        classifier = Classifier(options.checkpoint)
        training_set, _ = load(options.data)
        made = quantize(
            classifier.network,
            _inputs(classifier, training_set, options.images),
            method=options.method,
            percentile=options.percentile,
            weight_bits=options.weight_bits,
            skip_first=options.skip_first,
            skip_last=options.skip_last,
            exclude=options.exclude,
            strict=options.strict,
        )
        inputs = asdict(classifier.inputs)
        averaged = {"epoch": classifier.epoch, "averaged": classifier.averaged}
        made.metadata = {"inputs": inputs, **averaged}
        if options.out.suffix == ".onnx":
            made.save_onnx(options.out, (1, *classifier.inputs.image_shape))
        else:
            made.save(options.out)
    except (*EXPECTED, TypeError, ImportError) as error:
        return tell(error)
    print(f"{made}, {made.nbytes / 2**20:,.2f} MiB of weights: {options.out}")
    return 0


def _inputs(classifier: Classifier, images: Source, count: int) -> Iterator[np.ndarray]:
    """Yield images of a training set as a network takes them: evenly from all of it."""
    classifier.check(images)
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(np.int64)
    loader = Loader(Subset(images, places), classifier.inputs.normalizer(), BATCH)
    try:
        for batch in loader.batches():
            yield batch.images
    finally:
        loader.close()
