"""``lowerconv predict``: classify images, or the frames of a stream."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from lowerconv.cli import stream
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
        "size: they are resized and normalised as in training. With --stream the frames of a "
        "folder, a video or a pipe are answered one at a time, a line each, and a report at the "
        "end tells latencies, frames/s and memory.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=f"such as {Path('DIR') / BEST}; with --stream also MODEL.onnx",
    )
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE")
    streams = parser.add_argument_group("streams")
    streams.add_argument(
        "--stream",
        metavar="DIR|VIDEO|-",
        help="image files in order of the numbers in their names; a video file (needs the package "
        'av: pip install "lowerconv[video]"); or raw frames from stdin, as ffmpeg writes them with '
        "-f rawvideo -pix_fmt rgb24 -",
    )
    streams.add_argument(
        "--size",
        type=size_argument,
        metavar="WxH",
        help="of the frames from stdin, such as 1280x720",
    )
    streams.add_argument(
        "--whole",
        action="store_true",
        help="frames as they are, of any size, where the network of the checkpoint takes them",
    )
    streams.add_argument(
        "--fps",
        type=_fps,
        metavar="N",
        help="frames that come in a second; those that the network is too slow for are dropped",
    )
    streams.add_argument(
        "--loader-threads",
        type=int,
        default=1,
        metavar="N",
        help="that decode image files ahead (%(default)s)",
    )
    streams.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the latencies at the end"
    )
    parser.set_defaults(func=run)


def size_argument(text: str) -> tuple[int, int]:
    """Return width and height of frames, such as 1280x720."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(p.isascii() and p.isdecimal() and int(p) for p in parts):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a size such as 1280x720")
    return int(parts[0]), int(parts[1])


def _fps(text: str) -> float:
    """Return frames in a second."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 1e-3 <= number <= 1e6:  # no NaN either
        raise argparse.ArgumentTypeError(f"got {text!r}, expected frames in a second, such as 30")
    return number


def run(options: argparse.Namespace) -> int:
    """Classify as told; returns the exit status, 1 if an image cannot be read."""
    if bool(options.images) == (options.stream is not None):
        return tell(ValueError("predict: expected either images or --stream"))
    if options.stream is not None:
        return stream.run(options)
    for name in ("size", "whole", "fps", "plot"):
        if getattr(options, name):
            return tell(ValueError(f"--{name}: is for --stream"))
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
