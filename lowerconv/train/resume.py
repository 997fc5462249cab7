"""What a run that is resumed may change, and what it may not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lowerconv.nn.module import Module
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.parallel.options import ParallelOptions
from lowerconv.printable import printable
from lowerconv.train.checkpoint import CheckpointError
from lowerconv.train.schedule import learning_rate
from lowerconv.train.settings import Settings
from lowerconv.train.setup import Setup

#: Settings that may be others: `check` says what follows.
FREE = ("data", "epochs", "patience", "algorithm")


def describe_run(setup: Setup) -> dict[str, Any]:
    """Return what a checkpoint tells of a run, but how its ranks share the work.

    The images are told from others wherever they are, and by whatever name.
    """
    return {
        "settings": asdict(setup.settings),
        "inputs": asdict(setup.inputs),
        "images": {n: value for n, value in setup.images.items() if not n.endswith(": name")},
    }


def describe_work(options: ParallelOptions, ranks: int) -> dict[str, Any]:
    """Return how ranks share the work, as far as that is reported or decides the result.

    `ranks` and `strategy` are only reported: with any the result is the same to rounding.
    """
    return {
        "ranks": ranks,
        "strategy": options.strategy,
        "staleness": options.staleness if options.strategy in ("async", "server") else 0,
        "owt_updates": options.owt_updates if options.strategy == "owt" else 1,
        "wire": options.wire,
    }


def check(
    saved: Mapping[str, Any],
    setup: Setup,
    work: Mapping[str, Any],
    updates_per_epoch: int,
    path: Path,
) -> list[str]:
    """Return what is not as it was, a line each.

    Parameters
    ----------
    saved : mapping of str to object
        The `state` of the checkpoint.
    setup : Setup
        Of the run that goes on.
    work : mapping of str to object
        As of `describe_work`.
    updates_per_epoch : int
    path : Path
        Of the checkpoint.

    Raises
    ------
    CheckpointError
        Something would silently change the result: all of that, with both values.
    """
    now = json.loads(json.dumps(describe_run(setup)))
    settings = setup.settings
    defaults = {field.name: field.default for field in fields(Settings)}
    before = {name: saved["settings"].get(name, default) for name, default in defaults.items()}
    differing = [
        (name, before[name], value)
        for name, value in now["settings"].items()
        if name not in FREE and json.loads(json.dumps(before[name])) != value
    ]
    for part in ("inputs", "images"):
        known = saved.get(part)
        if known is not None:
            differing += [(n, known.get(n), v) for n, v in now[part].items() if known.get(n) != v]
    worked = saved.get("work", work)
    decisive = [name for name in work if name not in ("ranks", "strategy")]
    if any(worked.get(name) != work[name] for name in decisive):
        names = ["strategy", *decisive]
        differing += [(n, worked.get(n), work[n]) for n in names if worked.get(n) != work[n]]
    if differing:
        told = "; ".join(f"{name} {old!r}, not {new!r}" for name, old, new in differing)
        raise CheckpointError(f"{path}: was trained with {told}")
    done = len(saved["history"])
    lines = _other_settings(before, done, settings, updates_per_epoch)
    if "images" not in saved:
        lines.append(
            "images: the checkpoint has no checksums of them; the same are their shape, classes, "
            "mean and deviation"
        )
    if worked["strategy"] != work["strategy"]:
        lines.append(
            _line("parallel", worked["strategy"], work["strategy"], "the same to rounding")
        )
    if worked["ranks"] != work["ranks"]:
        lines.append(_line("ranks", worked["ranks"], work["ranks"], _of_ranks(setup.network)))
    if done >= settings.epochs:
        lines.append(f"complete: {done} epochs are done, of {settings.epochs}")
    return lines


def _other_settings(
    before: Mapping[str, Any], done: int, settings: Settings, updates_per_epoch: int
) -> list[str]:
    """Return the consequences of settings that have changed, `done` epochs into the run."""
    consequences = {
        "data": "the same images",
        "epochs": _of_epochs(before, done, settings, updates_per_epoch),
        "patience": "when to stop",
        "algorithm": "the same to rounding",
    }
    return [
        _line(name, before[name], getattr(settings, name), consequences[name])
        for name in FREE
        if before[name] != getattr(settings, name)
    ]


def _line(name: str, old: Any, new: Any, consequence: str) -> str:
    return f"{name}: {printable(old)} before, {printable(new)} now: {consequence}"


def _of_epochs(
    before: Mapping[str, Any], done: int, settings: Settings, updates_per_epoch: int
) -> str:
    """Return what another number of epochs does to the learning rate of those to come."""
    if done >= settings.epochs:
        return f"{done} are done"
    old = Settings(**before)
    for epoch in range(done, settings.epochs):
        for update in (epoch * updates_per_epoch, (epoch + 1) * updates_per_epoch - 1):
            now = learning_rate(settings, update, updates_per_epoch)
            if epoch >= old.epochs:
                return f"schedule {settings.schedule} goes on, learning rate {now:.4g}"
            planned = learning_rate(old, update, updates_per_epoch)
            if now != planned:
                return (
                    f"schedule {settings.schedule} depends on it, learning rate {now:.4g} in epoch "
                    f"{epoch + 1}, which would have been {planned:.4g}"
                )
    return f"schedule {settings.schedule} is the same"


def _of_ranks(network: Module) -> str:
    """Return what another number of ranks does."""
    alone = any(
        isinstance(module, BatchNorm2d) and not module.synchronized
        for _, module in network.modules()
    )
    if alone:
        return "batch norm sees other shares of a batch; else the same to rounding"
    return "the same to rounding"
