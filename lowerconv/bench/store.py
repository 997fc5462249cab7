"""Results as files: ``DIR/TABLE.json``, each with the machine it was measured on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lowerconv.bench.result import Result, Row
from lowerconv.train.checkpoint import write_atomically

FORMAT = "lowerconv bench 1"
NUMBERS = (int, float)


class FileError(ValueError):
    """A file that is not what `save` writes; the message begins with its path."""


def file_of(directory: Path, table: str) -> Path:
    """Return where a table is saved."""
    return directory / f"{table}.json"


def save(result: Result, directory: Path) -> Path:
    """Write a result, atomically, and return the file; the directory is made where it is missing.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    content = {
        "format": FORMAT,
        "table": result.table,
        "saved": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "setting": result.setting,
        "conditions": result.conditions,
        "machine": result.machine,
        "rows": [
            {"labels": row.labels, "seconds": row.seconds, "facts": row.facts}
            for row in result.rows
        ],
    }
    directory.mkdir(parents=True, exist_ok=True)
    path = file_of(directory, result.table)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def load(directory: Path, table: str) -> Result:
    """Read a result.

    Raises
    ------
    FileError
        The file is damaged, or `save` has not written it.
    OSError
        It cannot be read.
    """
    path = file_of(directory, table)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"{path}: damaged or no JSON ({error})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(f"{path}: not saved by this version's lowerconv bench --save")
    if content.get("table") != table:
        raise FileError(f"{path}: got table {content.get('table')!r}, expected {table!r}")
    try:
        return _result(table, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _result(table: str, content: dict[str, Any]) -> Result:
    """Return a result whose parts are of the kinds that all readers rely on."""
    conditions = {str(name): float(value) for name, value in content["conditions"].items()}
    if not conditions["peak"] > 0:
        raise ValueError(f"peak: got {conditions['peak']}, expected a positive number")
    setting = dict(content["setting"])
    for name, kinds in (("threads", int), ("batch", (int, type(None)))):
        if not isinstance(setting[name], kinds):
            raise TypeError(f"{name}: got {setting[name]!r}, expected a number")
    machine = dict(content["machine"])
    str(machine["cpu"]["name"])
    rows = tuple(_row(row) for row in content["rows"])
    if not rows:
        raise ValueError("rows: got none, expected at least one")
    return Result(table, setting, conditions, machine, rows)


def _row(row: dict[str, Any]) -> Row:
    seconds = {str(name): list(taken) for name, taken in row["seconds"].items()}
    for name, taken in seconds.items():
        if not taken or not all(
            isinstance(t, NUMBERS) and math.isfinite(t) and t > 0 for t in taken
        ):
            raise ValueError(f"seconds of {name}: expected positive numbers")
    labels = {str(name): str(value) for name, value in row["labels"].items()}
    return Row(labels, seconds, dict(row["facts"]))


def saved_tables(directory: Path, known: Iterable[str]) -> list[str]:
    """Return which of the known tables a directory holds.

    Raises
    ------
    FileError
        It is no directory, or holds none of them.
    """
    if not directory.is_dir():
        raise FileError(f"{directory}: no such folder")
    found = [table for table in known if file_of(directory, table).exists()]
    if not found:
        names = ", ".join(f"{table}.json" for table in known)
        raise FileError(f"{directory}: got no saved run, expected one of {names}")
    return found
