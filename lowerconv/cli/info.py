"""``lowerconv info``: the machine report as tables or as JSON."""

from __future__ import annotations

import argparse
import json
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from lowerconv.cli.mistakes import tell
from lowerconv.console import PlainConsole
from lowerconv.machine.mpi import launched_rank
from lowerconv.machine.topology import format_cpu_list, read_topology, usable_threads
from lowerconv.runtime.report import machine_report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand ``info`` to the parser of ``lowerconv``."""
    parser = subparsers.add_parser(
        "info",
        help="describe this machine",
        description="Describe this machine as lowerconv sees it: cores, caches, memory, BLAS, MPI, "
        "and what holds it back. Under mpiexec rank 0 does, and each other rank tells its cores.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Print the machine report; returns the exit status."""
    rank = launched_rank()
    if rank:  # of other ranks only what differs; without asking MPI, which may be what is broken
        if not args.json:
            print(_describe_rank(rank))
        return 0
    try:
        report = machine_report()
    except ValueError as error:  # a variable for lowerconv with a value that it cannot have
        return tell(error)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        console = PlainConsole(80)
        with console:  # written in one piece: other ranks write too
            _print_report(report, console)
    return 0


def _describe_rank(rank: int) -> str:
    topology = read_topology()
    return (
        f"rank {rank} on {platform.node()}: {_plural(len(topology.cores), 'core')} "
        f"(CPU {format_cpu_list(topology.cpus)}), {_plural(usable_threads(), 'thread')} worth using"
    )


def _print_report(report: dict[str, Any], console: PlainConsole) -> None:
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
    _print_pairs(console, "Cores", [*_core_pairs(report["cores"]), *_load_pairs(report)])
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
        ["node", "package", "cores", "memory", "CPUs"],
        [
            (
                node["number"],
                format_cpu_list(node["packages"]),
                node["cores"],
                _binary(node["memory"]),
                format_cpu_list(node["cpus"]),
            )
            for node in report["numa_nodes"]
        ],
    )
    memory = report["memory"]
    _print_pairs(
        console,
        "Memory",
        [
            ("physical", _binary(memory["physical"])),
            ("limit of this process", _binary(memory["limit"])),
            ("transparent huge pages", _or_unknown(memory["huge_pages"])),
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
    mpi = report["mpi"]
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
        ("SMT siblings", _siblings(cores["usable"]["siblings"])),
        ("CPU quota", "none" if quota is None else f"{quota:g} CPUs"),
        ("threads worth using", f"{cores['usable_threads']} (one per core, within the quota)"),
        ("threads in use", f"{cores['threads_in_use']} (from {cores['threads_source']})"),
        ("affinity", _affinity(cores["affinity"])),
    ]


def _affinity(affinity: dict[str, Any]) -> str:
    policy, places = affinity["policy"], affinity["places"]
    name = policy if isinstance(policy, str) else f"CPU {format_cpu_list(policy)}"
    if affinity["refused"]:
        return f"{name}, but the kernel refuses to bind threads: {affinity['refused']}"
    if places is None:
        return f"{name}: threads are not bound"
    return f"{name}: thread by thread on CPU {', '.join(map(str, places))}"


def _siblings(cores: list[list[int]]) -> str:
    """Tell how many threads cores have, and how the siblings are numbered."""
    widths = Counter(len(core) for core in cores)
    if list(widths) == [1]:
        return "none"
    example = next(core for core in cores if len(core) > 1)
    kinds = [f"{width} on {_plural(count, 'core')}" for width, count in sorted(widths.items())]
    return f"{', '.join(kinds)} (CPU {' and '.join(map(str, example))} are one)"


def _load_pairs(report: dict[str, Any]) -> list[tuple[str, object]]:
    frequency, load = report["frequency"], report["load"]
    governor = ", ".join(frequency["governors"]) or "unknown"
    if frequency["drivers"]:
        governor += f" (driver {', '.join(frequency['drivers'])})"
    average, ranks = load["average"], load["ranks_on_host"]
    return [
        *([] if ranks is None else [("ranks on this host", ranks)]),
        ("load of the last minute", "unknown" if average is None else f"{average:.2f}"),
        ("frequency governor", governor),
    ]


def _print_pairs(console: PlainConsole, title: str, pairs: Iterable[tuple[str, object]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # wrapped, never cut off
    for name, text in pairs:
        table.add_row(f"  {name}", str(text))
    _print_section(console, title, table)


def _print_columns(
    console: PlainConsole, title: str, names: Sequence[str], rows: Iterable[Sequence[object]]
) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in names:
        table.add_column(overflow="fold")
    table.add_row(f"  {names[0]}", *names[1:], style="dim")
    for first, *rest in rows:
        table.add_row(f"  {first}", *map(str, rest))
    _print_section(console, title, table)


def _print_section(console: PlainConsole, title: str, table: Table) -> None:
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
