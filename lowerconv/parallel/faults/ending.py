"""Ending this host's part of a job whose network may be gone.

After ``MPI_Abort`` a launcher waits for its daemons on the other hosts. Where the network is cut
it waits for hours, and so do they. The ranks of a host see to it that theirs ends: a second SIGTERM
has Open MPI's end without waiting.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

# Processes that have started a rank, and that are of its job alone.
LAUNCHERS = ("prterun", "prted", "orterun", "orted", "mpiexec", "mpirun", "hydra_pmi_proxy")
# Is it there? Asked every second; told to end after 5, 6 and 7 s, and ended after 9.
SCRIPT = """
seconds=0
while kill -0 "$1" 2>/dev/null; do
  case $seconds in
    5|6|7) kill -TERM "$1" ;;
    9) kill -KILL "$1"; exit ;;
  esac
  seconds=$((seconds + 1)); sleep 1
done
"""


def flush() -> None:
    """Write out what has been printed: the end of the process will not."""
    for stream in (sys.stderr, sys.stdout):
        if stream is not None:  # which closed ones are
            stream.flush()


def launcher() -> int | None:
    """Return the process that has started this rank, if it is a launcher of this job alone."""
    try:
        parent = os.getppid()
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:  # no such file but on Linux
        return None
    return parent if name in LAUNCHERS else None


def end_launcher_later() -> None:
    """Begin to end this rank's launcher, unless it ends by itself in some seconds.

    A process of its own does: this rank is about to end. Where processes cannot be seen, or none
    can be started, nothing is done.
    """
    parent = launcher()
    if parent is not None:
        with contextlib.suppress(OSError):
            subprocess.Popen(
                ["/bin/sh", "-c", SCRIPT, "end", str(parent)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
