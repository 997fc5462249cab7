"""Programs in processes of their own, as users run them."""

import os
import subprocess
import sys
from pathlib import Path

import lowerconv

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 200  # seconds: a process that takes so long hangs


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, with changes, and so that the library is found."""
    path = [str(Path(lowerconv.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))} | changes


def complaints(stderr: str) -> str:
    """Return what a process said on stderr, except that it compiled something."""
    lines = stderr.splitlines()
    return "\n".join(line for line in lines if not line.startswith("lowerconv: compiled"))


def python(*arguments: str, **changes: str) -> str:
    """Run ``python ARGUMENTS``, which has to end well and without a complaint; return its output.

    Parameters
    ----------
    *arguments : str
        Options of Python, and a program's path and arguments, or ``"-c", code``.
    **changes : str
        To the environment.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    print(done.stderr)
    assert done.returncode == 0, f"return code {done.returncode}: {done.stderr[-2000:]}"
    assert complaints(done.stderr) == ""
    return done.stdout.strip()


def program(name: str, *arguments: str, **changes: str) -> str:
    """Run one of ``programs/`` as `python` does."""
    return python(str(PROGRAMS / name), *arguments, **changes)
