"""``lowerconv bench``: the tables of the literature, measured on this machine."""

from __future__ import annotations

import argparse
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lowerconv.arguments import Place, reader
from lowerconv.bench import compare, draw, store
from lowerconv.bench.case import BATCH, DURATION, SECONDS, THREADS, Options
from lowerconv.bench.passes import BACKWARD, PASSES
from lowerconv.bench.result import Result
from lowerconv.bench.study import Study, measure
from lowerconv.bench.tables import TABLES
from lowerconv.cli import mistakes
from lowerconv.cli.doing import doing
from lowerconv.console import PlainConsole
from lowerconv.runtime.threads import get_num_threads, set_num_threads

EXPECTED = (*mistakes.EXPECTED, RuntimeError)
NARROW, WIDE = 100, 120  # columns that the tables are made for
BESIDE = True  # --plot without a folder
FOLDER = Place("a folder")

EPILOG = """examples:
  lowerconv bench                                        every table: some minutes
  lowerconv bench --table cifar10 --plot                 and cifar10.png
  lowerconv bench --table googlenet --layers 3x3 --batch 8 --passes forward
  lowerconv bench --save before                          later: lowerconv bench --compare before
  lowerconv bench --load before --plot                   pictures of what was saved

A run that is compared on another machine, or with other settings, is shown as NOT COMPARABLE,
with everything that differs. Candidates take turns, so that ratios within a table hold on a noisy
machine too; a table tells when other processes were at work.
"""


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a regular expression: {error}"
        ) from None


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    width = max(map(len, TABLES))
    parser = commands.add_parser(
        "bench",
        help="measure the tables of the literature on this machine",
        description="Measure the tables of the literature on this machine, and print them:\n\n"
        + "\n".join(
            f"  {name:<{width}}  {study.summary}" + f" (batch {study.batch})" * bool(study.batch)
            for name, study in TABLES.items()
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--table",
        nargs="+",
        choices=TABLES,
        metavar="TABLE",
        help="of those above; default: all, or those that --compare or --load has",
    )
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--batch",
        type=reader(BATCH),
        metavar="N",
        help="images; default: that of the table, or of each model",
    )
    what.add_argument(
        "--threads",
        type=reader(THREADS),
        metavar="N",
        help="default: LOWERCONV_NUM_THREADS, else OMP_NUM_THREADS, else one per core this process "
        "may use",
    )
    what.add_argument(
        "--passes",
        nargs="+",
        choices=(*PASSES, BACKWARD),
        metavar="PASS",
        help=f"of {', '.join(PASSES)}, {BACKWARD} (both gradients); default: those of the table",
    )
    what.add_argument(
        "--layers",
        type=_pattern,
        metavar="REGEX",
        help="only layers with this in their name, such as 3x3, ^conv1 or 4[ab]",
    )
    what.add_argument(
        "--seconds",
        type=reader(DURATION),
        default=SECONDS,
        metavar="S",
        help="for each comparison of candidates, longer where they are slow; default: %(default)s",
    )
    files = parser.add_argument_group("files")
    files.add_argument(
        "--save",
        type=reader(FOLDER),
        metavar="DIR",
        help="write DIR/TABLE.json: all times, and the machine; replaces those of an earlier run",
    )
    files.add_argument(
        "--compare", type=reader(FOLDER), metavar="DIR", help="print a saved run beside the new one"
    )
    files.add_argument(
        "--plot",
        nargs="?",
        type=reader(FOLDER),
        const=BESIDE,
        metavar="DIR",
        help="draw TABLE.png into DIR; default: the folder of --save or --load, or the current "
        'one (needs matplotlib: pip install "lowerconv[plot]")',
    )
    files.add_argument(
        "--load", type=reader(FOLDER), metavar="DIR", help="take a saved run instead of measuring"
    )
    parser.set_defaults(func=run)


@dataclass(frozen=True)
class Job:
    """A table to be shown: where its result comes from, and what it is compared with."""

    study: Study
    options: Options
    loaded: Result | None
    before: Result | None


def run(options: argparse.Namespace) -> int:
    """Measure, print, save, draw and compare what was asked for; returns the exit status."""
    width = max(NARROW, min(WIDE, PlainConsole().width))
    console = PlainConsole(width=width)
    try:
        jobs = prepare(options, console)
        for job in jobs:
            _do(job, options, console)
        return 0
    except EXPECTED as error:
        return mistakes.tell(error)


def prepare(options: argparse.Namespace, console: PlainConsole) -> list[Job]:
    """Return what there is to do; whatever can fail before minutes of measuring fails here.

    Raises
    ------
    ValueError, OSError, RuntimeError
        Options that do not go together, files that are damaged, a package that is missing.
    """
    if options.plot is not None and not draw.available():
        raise RuntimeError(f"--plot: {draw.HINT}")
    if options.load:
        _refuse(options, ("batch", "threads", "passes", "layers", "save"), "with --load")
    names = _tables(options)
    old = {name: _load(options, "compare", name) for name in names} if options.compare else {}
    if options.load:
        loaded = {name: _load(options, "load", name) for name in names}
        jobs = [Job(TABLES[name], Options(1), loaded[name], old.get(name)) for name in names]
    else:
        jobs = _to_measure(options, names, old, console)
    if options.save:
        _make_folder(options.save, "save")
        _keep_foreign_files(options.save, [job.study.name for job in jobs])
    if options.plot is not None:
        _make_folder(_pictures(options), "plot")
    return jobs


def _to_measure(
    options: argparse.Namespace, names: list[str], old: dict[str, Result], console: PlainConsole
) -> list[Job]:
    """Return a job for each table that has what was asked for."""
    _check_choices(options, names)
    threads = _threads(options)
    jobs = []
    for name in names:
        study = TABLES[name]
        chosen = study_options(study, options, threads)
        if study.cases(chosen):
            jobs.append(Job(study, chosen, None, old.get(name)))
        else:
            console.print(f"{name}: no layer's name contains {options.layers.pattern!r}, left out")
    if not jobs:
        raise ValueError(
            f"--layers: got {options.layers.pattern!r}, expected a part of the name of a layer of "
            + ", ".join(names)
        )
    return jobs


def study_options(study: Study, options: argparse.Namespace, threads: int) -> Options:
    """Return what was asked for, as far as a table takes it, and its defaults for the rest."""
    return Options(
        threads,
        options.batch or study.batch,
        tuple(dict.fromkeys(options.passes or study.passes)) if study.passes else (),
        options.layers if options.layers and study.has_layers else re.compile(""),
        options.seconds,
    )


def _tables(options: argparse.Namespace) -> list[str]:
    """Return the tables that are asked for, those of saved runs where nobody says."""
    wanted = list(dict.fromkeys(options.table or TABLES))
    for source in ("load", "compare"):
        directory = getattr(options, source)
        if directory is None:
            continue
        try:
            there = store.saved_tables(directory, TABLES)
        except store.FileError as error:
            raise store.FileError(f"--{source}: {error}") from None
        if options.table:
            for name in wanted:
                if name not in there:
                    raise ValueError(
                        f"--{source}: got no {name}.json in {directory}, expected one of "
                        + ", ".join(f"{found}.json" for found in there)
                    )
        both = [name for name in wanted if name in there]
        if not both:
            raise ValueError(f"--compare: got {directory}, expected a table of {options.load}")
        wanted = both
    return wanted


def _load(options: argparse.Namespace, source: str, name: str) -> Result:
    """Return a saved result that can be shown: a damaged one must not end a run minutes later."""
    directory = getattr(options, source)
    try:
        result = store.load(directory, name)
    except store.FileError as error:
        raise store.FileError(f"--{source}: {error}") from None
    try:
        TABLES[name].tables(result)
        TABLES[name].notes(result)
        compare.differences(result, result)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        path = store.file_of(directory, name)
        raise store.FileError(
            f"--{source}: {path}: damaged ({type(error).__name__}: {error})"
        ) from None
    return result


def _refuse(options: argparse.Namespace, names: tuple[str, ...], where: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(f"--{name}: got it {where}, expected one of them")


def _check_choices(options: argparse.Namespace, names: list[str]) -> None:
    """Refuse a choice that none of the tables has."""
    studies = [TABLES[name] for name in names]
    for option, takes in (
        ("passes", [study for study in studies if study.passes]),
        ("layers", [study for study in studies if study.has_layers]),
    ):
        if getattr(options, option) is not None and not takes:
            raise ValueError(
                f"--{option}: got it with {', '.join(names)}, expected a table of single layers"
            )


def _threads(options: argparse.Namespace) -> int:
    if options.threads:
        try:
            set_num_threads(options.threads)
        except ValueError as error:
            raise ValueError(f"--threads: {error}") from None
    return get_num_threads()


def _pictures(options: argparse.Namespace) -> Path:
    """Return where pictures go."""
    if options.plot is not BESIDE:
        return options.plot
    return options.save or options.load or Path()


def _make_folder(directory: Path, option: str) -> None:
    """Make a folder, and find out now whether files can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(
            f"--{option}: got {directory}, expected a folder to write to ({error.strerror})"
        ) from None


def _keep_foreign_files(directory: Path, names: list[str]) -> None:
    """Refuse to write over what `--save` has not written."""
    for name in names:
        if store.file_of(directory, name).exists():
            try:
                store.load(directory, name)
            except store.FileError as error:
                raise store.FileError(f"--save: {error}; expected another folder") from None


def _do(job: Job, options: argparse.Namespace, console: PlainConsole) -> None:
    study = job.study
    result = job.loaded
    if result is None:
        with doing(console, study.name) as show:
            result = measure(study, job.options, show)
    for table in study.tables(result):
        console.print(table)
    for line in study.notes(result):
        console.print(line)
    if job.before:
        _compare(console, job.before, result)
    if options.save:
        console.print(f"saved: {store.save(result, options.save)}", soft_wrap=True)
    if options.plot is not None:
        for path in draw.save_picture(study, result, _pictures(options)):
            console.print(f"drawn: {path}", soft_wrap=True)
    console.print()


def _compare(console: PlainConsole, before: Result, now: Result) -> None:
    console.print()
    differing = compare.differences(before, now)
    if differing:
        console.print("NOT COMPARABLE: the two runs differ in", style="bold red")
        for name, old, new in differing:
            console.print(f"  {name}: {old} before, {new} now", style="bold red", soft_wrap=True)
        console.print()
    console.print(compare.comparison(before, now, differing))
    for line in compare.notes(before, now):
        console.print(line)
