"""``lowerconv pack``: turn a data set into shards, which are read at the speed of the disk."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path

from rich.progress import Progress

from lowerconv.arguments import checked, reader
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.console import PlainConsole
from lowerconv.data.packing import BYTES, PIXELS, SHARD_BYTES, SIZE, pack
from lowerconv.data.shardset import read_shards
from lowerconv.printable import printable_lines

_BAR_STEP = 64  # images between two looks of the bar
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_bytes(text: str) -> int:
    """Return a number of bytes, such as ``256M``: units are powers of 1,024."""
    match = re.fullmatch(r"([0-9]+)\s*([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number of bytes such as 256M")
    try:
        return checked(repr(text), BYTES, int(match[1]) * _UNITS[match[2].upper()])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "pack",
        help="turn a data set into shards, which are read at the speed of the disk",
        description="Turn a data set into shards: a few large files with checksums, read through "
        "memory maps by lowerconv train --data shards:DST. One that was broken off goes on where "
        "it was.",
    )
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a directory of images (one folder per class), of CIFAR-10's binary files or of idx "
        "files, or what lowerconv train --data takes; with --check a directory of shards",
    )
    parser.add_argument("target", metavar="DST", nargs="?", help="directory of the shards")
    parser.add_argument(
        "--size",
        type=reader(PIXELS),
        metavar="S",
        help="pixels of the shorter side of a folder's images, which are stored whole; "
        f"default: {SIZE}. Training sees S x S of them, or less with shards:DST?size=",
    )
    parser.add_argument(
        "--encoded",
        action="store_true",
        help="store a folder's images as JPEG: a sixth of the disk, ten times the work to read",
    )
    parser.add_argument(
        "--shard-size",
        type=parse_bytes,
        default=SHARD_BYTES,
        metavar="BYTES",
        help="images in one file, such as 64M or 1G; default: 256M",
    )
    parser.add_argument(
        "--check", action="store_true", help="verify every image of the shards in SRC, no more"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Pack or verify; returns the exit status."""
    console = PlainConsole()
    try:
        if options.check:
            _check(options, console)
        else:
            _pack(options, console)
        return 0
    except EXPECTED as error:
        return tell(error)


def _pack(options: argparse.Namespace, console: PlainConsole) -> None:
    if options.target is None:
        raise ValueError("DST: got none, expected the directory of the shards")
    begin = time.perf_counter()
    with Progress(
        console=console, transient=True, disable=not console.is_terminal, auto_refresh=False
    ) as bar:
        task = bar.add_task("packing", total=None)

        def show(images: int, total: int) -> None:
            if images % _BAR_STEP == 0 or images == total:
                bar.update(task, completed=images, total=total, refresh=True)

        done = pack(
            options.source,
            options.target,
            options.size,
            options.encoded,
            options.shard_size,
            say=lambda text: _say(console, text),
            progress=show,
        )
    seconds = time.perf_counter() - begin
    found = f" ({done.found} of them were there already)" if done.found else ""
    _say(
        console,
        f"{done.images:,} images, {done.bytes / 2**20:,.1f} MiB in {done.made + done.found} "
        f"shards{found}, {seconds:.1f} s; train on them with --data shards:{options.target}",
    )


def _check(options: argparse.Namespace, console: PlainConsole) -> None:
    directory = Path(options.source.removeprefix("shards:"))
    parts = read_shards(directory)
    for part in parts:
        part.verify_all()
    images = sum(len(part) for part in parts)
    shards = sum(len(part.shards) for part in parts)
    _say(console, f"{images:,} images in {shards} shards: no damage")


def _say(console: PlainConsole, text: str) -> None:
    console.print(printable_lines(text), soft_wrap=True)
