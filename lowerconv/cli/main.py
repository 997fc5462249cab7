"""The command line: ``lowerconv COMMAND``, one file per command."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence

from rich.console import Console

from lowerconv.cli import (
    bench,
    evaluate,
    info,
    models,
    pack,
    predict,
    slurm,
    timeline,
    train,
    tune,
)
from lowerconv.parallel.communicator import launched_rank
from lowerconv.version import __version__


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``func``, which returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="lowerconv", description="Convolutions on CPUs and CPU clusters."
    )
    parser.add_argument("--version", action="version", version=f"lowerconv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (
        train, slurm, timeline, evaluate, predict, models, pack, tune, bench, info
    ):  # fmt: skip
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    # Under mpiexec every rank finds the same mistake in its arguments; the first tells it.
    quiet = io.StringIO() if launched_rank() else None
    with contextlib.redirect_stderr(quiet) if quiet else contextlib.nullcontext():
        parsed = build_parser().parse_args(arguments)
    try:
        return int(parsed.func(parsed))
    except KeyboardInterrupt:
        for stderr in (False, True):  # what has hidden the cursor may have been interrupted again
            Console(stderr=stderr).show_cursor()
        print("lowerconv: interrupted", file=sys.stderr)
        return 130
