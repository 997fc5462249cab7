"""The command line: ``lowerconv COMMAND``, one file per command."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from lowerconv.cli import (
    bench,
    compare,
    evaluate,
    info,
    mistakes,
    models,
    pack,
    predict,
    predict_time,
    quantize,
    run,
    show,
    slurm,
    timeline,
    train,
    tune,
)
from lowerconv.machine.mpi import launched_rank, launched_ranks
from lowerconv.version import __version__

BROKEN_PIPE = 141  # exit status, as of shells: 128 and the number of SIGPIPE


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``func``, which returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="lowerconv", description="Convolutions on CPUs and CPU clusters."
    )
    parser.add_argument("--version", action="version", version=f"lowerconv {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commanded = (train, slurm, timeline, predict_time, evaluate, predict, quantize, models)
    for command in (*commanded, run, show, compare, pack, tune, bench, info):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Names that cannot be printed are printed escaped; where nobody reads what is printed, as behind
    ``| head -1``, the command ends without a word.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as daemons have them, or never there: pythonw
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _main(arguments)
        finally:
            sys.stdout.flush()  # here its errors can be told
    except BrokenPipeError:
        status = BROKEN_PIPE
    except OSError as error:
        status = mistakes.tell(error)
    with contextlib.suppress(OSError, ValueError):  # what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _main(arguments: Sequence[str] | None) -> int:
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parsed = build_parser().parse_args(arguments)
    except SystemExit as end:
        command = (sys.argv[1:] if arguments is None else arguments)[:1]
        if end.code and list(command) == ["train"] and (launched_ranks() or 1) > 1:
            return train.refuse(told.getvalue())
        _tell_once(told.getvalue())
        raise
    _tell_once(told.getvalue())  # what Python may have warned of
    try:
        return int(parsed.func(parsed))
    except KeyboardInterrupt:
        for stderr in (False, True):  # what has hidden the cursor may have been interrupted again
            Console(stderr=stderr).show_cursor()
        print("lowerconv: interrupted", file=sys.stderr)
        return 130


def _tell_once(text: str) -> None:
    if not launched_rank():  # all ranks were given the same arguments; the first tells it
        sys.stderr.write(text)
