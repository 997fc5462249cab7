"""A saved run beside a new one: row by row, and what makes the two machines different."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table

from lowerconv.bench.interleaved import geometric_mean
from lowerconv.bench.result import Result, Row
from lowerconv.bench.show import NONE, disturbance, ms, new_table

SETTING = ("threads", "batch")
# Parts of the machine report that speed depends on.
PARTS = (
    *("cpu", "cores", "frequency", "caches", "numa_nodes", "memory"),
    *("blas", "versions", "environment"),
)
# Of these, what says nothing about speed: where things lie, MPI, and memory that is enough anyway.
# The library's own version is what people compare.
IGNORED = {
    "versions.lowerconv",
    "versions.mpi4py",
    "memory.limit",
    "memory.physical",
    "cores.threads_in_use",  # the setting tells
    "environment.LOWERCONV_CACHE_DIR",
    "environment.NUMBA_CACHE_DIR",
}
# How an item of a list is called, and what matters about it.
LISTS: dict[str, Callable[[dict[str, Any]], tuple[str, Any]]] = {
    "blas": lambda blas: (
        blas["loaded_by"],
        {name: blas[name] for name in ("library", "version", "kernels")},
    ),
    "caches": lambda cache: (
        f"L{cache['level']} {cache['kind']}",
        f"{cache['count']} of {cache['bytes']} bytes",
    ),
    "numa_nodes": lambda node: (str(node["number"]), len(node["cpus"])),
}
MISSING = "nothing"


def differences(old: Result, new: Result) -> list[tuple[str, str, str]]:
    """Return what makes two runs incomparable: its name, what it was, and what it is.

    Parameters
    ----------
    old, new : Result

    Returns
    -------
    list of (str, str, str)
        Settings, and what speed depends on in the machine reports; empty for equal ones.
    """
    before, after = dict(_facts(old)), dict(_facts(new))
    return [
        (name, before.get(name, MISSING), after.get(name, MISSING))
        for name in dict.fromkeys([*before, *after])
        if before.get(name, MISSING) != after.get(name, MISSING)
    ]


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    for name in SETTING:
        yield name, str(result.setting[name])
    for part in PARTS:
        value = result.machine.get(part)
        if part in LISTS and isinstance(value, list):
            value = dict(map(LISTS[part], value))
        yield from _flat(part, value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a dict by their dotted names; lists are leaves."""
    if name in IGNORED:
        return
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flat(f"{name}.{key}", below)
    else:
        yield name, str(value)


def comparison(old: Result, new: Result, differing: list[tuple[str, str, str]]) -> Table:
    """Return old beside new, a line for each row and candidate.

    Parameters
    ----------
    old, new : Result
        Of the same table.
    differing : list
        What `differences` returns: where there are any, ratios are told not to be comparable.
    """
    labels = [name for name in new.rows[0].labels if name != "network" or len(new.values(name)) > 1]
    table = new_table(
        f"{new.table}: before, and now" + " (NOT COMPARABLE)" * bool(differing),
        [*labels, "candidate"],
        ["before ms", "now ms", "before / now"],
    )
    ratios: list[float] = []
    for key, (then, now) in _pairs(old, new).items():
        for name in dict.fromkeys([*(then.seconds if then else ()), *(now.seconds if now else ())]):
            a, b = (
                row.median(name) if row and name in row.seconds else None for row in (then, now)
            )
            ratio = NONE
            if a is not None and b is not None:
                ratios.append(a / b)
                ratio = f"{a / b:.2f}" + " not comparable" * bool(differing)
            table.add_row(
                *(dict(key).get(label, NONE) for label in labels), name, ms(a), ms(b), ratio
            )
    if ratios and not differing:
        table.add_section()
        empty = [""] * (len(labels) + 2)
        table.add_row("geometric mean", *empty, f"{geometric_mean(ratios):.2f}")
    return table


def _pairs(
    old: Result, new: Result
) -> dict[tuple[tuple[str, str], ...], tuple[Row | None, Row | None]]:
    """Return the rows of both by their labels, in the order of the new ones."""
    before = {tuple(row.labels.items()): row for row in old.rows}
    after = {tuple(row.labels.items()): row for row in new.rows}
    return {key: (before.get(key), after.get(key)) for key in dict.fromkeys([*after, *before])}


def notes(old: Result, new: Result) -> list[str]:
    """Return the lines below a comparison."""
    versions = [run.machine.get("versions", {}).get("lowerconv") for run in (old, new)]
    peaks = [f"{run.conditions['peak'] / 1e9:.0f}" for run in (old, new)]
    return [
        "before / now: above 1 it has become faster; medians of two runs, which did not take turns",
        f"lowerconv {versions[0]} before, {versions[1]} now; "
        f"FMA peak {peaks[0]} GFLOP/s before, {peaks[1]} now",
        f"before: {disturbance(old.rows)}; now: {disturbance(new.rows)}",
    ]
