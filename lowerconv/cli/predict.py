"""``lowerconv predict``: classify images."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.data import DataError
from lowerconv.printable import printable
from lowerconv.train.checkpoint import BEST
from lowerconv.train.classifier import Classifier

BATCH = 64  # images at a time
TOP = 5  # classes shown


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "predict",
        help="classify images with a trained network",
        description=f"Print the {TOP} most probable classes of each image. Images may have any "
        "size: they are resized and normalised as in training.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help=f"such as {Path('DIR') / BEST}"
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Classify as told; returns the exit status, 1 if an image cannot be read."""
    try:
        classifier = Classifier(options.checkpoint)
        read = [
            _predict(classifier, options.images[start : start + BATCH])
            for start in range(0, len(options.images), BATCH)
        ]
    except EXPECTED as error:
        return tell(error)
    return 0 if all(read) else 1


def _predict(classifier: Classifier, paths: list[Path]) -> bool:
    """Print the classes of some images; return whether all could be read."""
    images: list[tuple[Path, np.ndarray]] = []
    for path in paths:
        try:
            images.append((path, classifier.read(path)))
        except DataError as error:
            tell(error)
    if images:
        probabilities = classifier.probabilities(np.stack([image for _, image in images]))
        for (path, _), row in zip(images, probabilities, strict=True):
            print(printable(path))
            for label in np.argsort(-row, kind="stable")[:TOP]:
                print(f"  {row[label]:7.2%}  {printable(classifier.inputs.classes[label])}")
    return len(images) == len(paths)
