"""``lowerconv info``: the machine report as tables or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from lowerconv.machine.report import machine_report
from lowerconv.machine.topology import format_cpu_list


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand ``info`` to the parser of ``lowerconv``."""
    parser = subparsers.add_parser(
        "info",
        help="describe this machine",
        description="Describe this machine as lowerconv sees it: cores, caches, memory, BLAS, MPI, "
        "and what holds it back.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the machine report; returns the exit status, 0."""
    report = machine_report()
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        # Plain text: markup would swallow the brackets of "lowerconv[mpi]".
        _print_report(report, Console(markup=False, highlight=False, emoji=False))
    return 0


def _print_report(report: dict[str, Any], console: Console) -> None:
    cpu = report["cpu"]
    _print_pairs(
        console,
        "Processor",
        [
            ("name", cpu["name"]),
            ("architecture", cpu["architecture"]),
            ("instruction set", cpu["instruction_set"]),
            ("features", " ".join(cpu["features"])),
        ],
    )
    _print_pairs(console, "Cores", _core_pairs(report["cores"]))
    _print_columns(
        console,
        "Caches",
        ["level", "kind", "size", "shared by", "count"],
        [
            (
                f"L{cache['level']}",
                cache["kind"],
                _binary(cache["bytes"]) + (" (assumed)" if cache["assumed"] else ""),
                _or_unknown(cache["shared_by"]),
                _or_unknown(cache["count"]),
            )
            for cache in report["caches"]
        ],
    )
    _print_columns(
        console,
        "NUMA nodes",
        ["node", "CPUs"],
        [(node["number"], format_cpu_list(node["cpus"])) for node in report["numa_nodes"]],
    )
    memory = report["memory"]
    _print_pairs(
        console,
        "Memory",
        [
            ("physical", _binary(memory["physical"])),
            ("limit of this process", _binary(memory["limit"])),
        ],
    )
    _print_columns(
        console,
        "BLAS",
        ["library", "version", "kernels", "threads", "loaded by"],
        [
            (
                blas["library"],
                _or_unknown(blas["version"]),
                _or_unknown(blas["kernels"]),
                blas["threads"],
                blas["path"] if blas["loaded_by"] == "other" else blas["loaded_by"],
            )
            for blas in report["blas"]
        ],
    )
    numba, mpi = report["numba"], report["mpi"]
    _print_pairs(
        console,
        "Threading layers of numba",
        [
            ("available", " ".join(numba["threading_layers"])),
            ("in use", numba["threading_layer_in_use"] or "none yet"),
        ],
    )
    _print_pairs(
        console,
        "MPI",
        [
            ("library", mpi["library"] or mpi["state"]),
            ("standard", mpi["standard"] or "unknown"),
            ("mpiexec on the PATH", mpi["mpiexec_on_path"] or "not found"),
            ("mpiexec beside Python", mpi["mpiexec_beside_python"] or "not found"),
        ],
    )
    _print_pairs(
        console,
        "Versions",
        [(name, number or "not installed") for name, number in report["versions"].items()],
    )
    if report["environment"]:
        _print_pairs(console, "Environment", report["environment"].items())
    if report["warnings"]:
        _print_pairs(
            console, "Warnings", [(f"{i}.", text) for i, text in enumerate(report["warnings"], 1)]
        )


def _core_pairs(cores: dict[str, Any]) -> list[tuple[str, object]]:
    def count(part: dict[str, Any]) -> str:
        return (
            f"{_plural(part['packages'], 'package')}, {_plural(part['cores'], 'core')}, "
            f"{_plural(part['smt_threads'], 'SMT thread')} (CPU {format_cpu_list(part['cpus'])})"
        )

    quota = cores["cpu_quota"]
    return [
        ("in the machine", count(cores["online"])),
        ("usable", count(cores["usable"])),
        ("CPU quota", "none" if quota is None else f"{quota:g} CPUs"),
        ("threads worth using", f"{cores['usable_threads']} (one per core, within the quota)"),
        ("threads in use", cores["threads_in_use"]),
    ]


def _print_pairs(console: Console, title: str, pairs: Iterable[tuple[str, object]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # wrapped, never cut off
    for name, text in pairs:
        table.add_row(f"  {name}", str(text))
    _print_section(console, title, table)


def _print_columns(
    console: Console, title: str, names: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in names:
        table.add_column(overflow="fold")
    table.add_row(f"  {names[0]}", *names[1:], style="dim")
    for first, *rest in rows:
        table.add_row(f"  {first}", *map(str, rest))
    _print_section(console, title, table)


def _print_section(console: Console, title: str, table: Table) -> None:
    console.print(title, style="bold")
    console.print(table)
    console.print()


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}" + ("" if count == 1 else "s")


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _binary(nbytes: int | None) -> str:
    """Write a number of bytes with the largest binary unit that leaves at least one."""
    if nbytes is None:
        return "unknown"
    amount = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} TiB"
