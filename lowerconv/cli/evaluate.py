"""``lowerconv evaluate``: test a trained network."""

from __future__ import annotations

import argparse
from pathlib import Path

from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.data import load
from lowerconv.train.checkpoint import BEST
from lowerconv.train.classifier import Classifier


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="test a trained network",
        description="Print loss and accuracy of a trained network over the test images of a data "
        "set.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help=f"such as {Path('DIR') / BEST}"
    )
    parser.add_argument(
        "--data", required=True, metavar="SPEC", help="as for train; its test part counts"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Test as told; returns the exit status."""
    try:
        classifier = Classifier(options.checkpoint)
        _, test_set = load(options.data)
        loss, accuracy = classifier.evaluate(test_set)
    except EXPECTED as error:
        return tell(error)
    averaged = ", averaged weights" if classifier.averaged else ""
    print(
        f"test accuracy {accuracy:.2%}, loss {loss:.4f}, over {len(test_set):,} images; "
        f"after epoch {classifier.epoch}{averaged}"
    )
    return 0
