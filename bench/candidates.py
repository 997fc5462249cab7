"""Who takes part in a comparison: algorithms of lowerconv and peers, on what the user selected."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import lowerconv as lc
from bench import peers
from lowerconv.bench.case import REFERENCE
from lowerconv.bench.cases import Layer, layers, networks
from lowerconv.bench.interleaved import Run
from lowerconv.bench.passes import PASSES, function, operands, plan_for, planned


class Setting(NamedTuple):
    """On how many threads, and how many images."""

    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' * (self.threads > 1)}, batch {self.batch}"


def setting(text: str) -> Setting:
    """Return ``"2,32"`` as 2 threads, batch 32."""
    threads, batch = map(int, text.split(","))
    if batch < 1:
        raise ValueError(text)
    return Setting(threads, batch)


def _default_settings() -> list[Setting]:
    cores = lc.get_num_threads()
    wanted = [Setting(1, 1), Setting(cores, 1), Setting(1, 8), Setting(cores, 32)]
    return list(dict.fromkeys(wanted))


def add_options(add: Callable[..., Any]) -> None:
    """Add the options that select, through argparse's `add_argument` or pytest's `addoption`."""
    add(
        "--network",
        nargs="+",
        choices=networks(),
        default=["googlenet"],
        help="of lowerconv/bench/cases",
    )
    add("--at", nargs="+", type=setting, default=_default_settings(), help="THREADS,BATCH pairs")
    add("--passes", nargs="+", choices=PASSES, default=PASSES)
    add(
        "--algorithms",
        nargs="+",
        choices=("auto", *lc.algorithms()),
        default=["auto"],
        help="the first is compared with the others and with the peers",
    )
    add("--layers", type=re.compile, default=".", metavar="REGEX", help="found in the name")
    add(
        "--call",
        choices=("plan", "function"),
        default="plan",
        help="a plan given the memory of its result, or the function of the public interface",
    )
    add(
        "--constant-weights",
        action="store_true",
        help="plans may keep the filters as they need them (forward and input_grad)",
    )
    add("--no-lowering", action="store_true", help=f"leave out {REFERENCE!r}, the reference")


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that do not fit together."""
    if options.constant_weights and options.call == "function":
        raise ValueError("--constant-weights: only plans know it, expected --call plan")
    for at in options.at:
        lc.set_num_threads(at.threads)  # raises where there are not that many


def selected(network: str, options: argparse.Namespace) -> list[Layer]:
    """Return the layers of a network that are asked for."""
    return [layer for layer in layers(network) if options.layers.search(layer.name)]


def names(op: str, options: argparse.Namespace) -> list[str]:
    """Return who takes part in a pass, the one that all others are compared with first."""
    reference = [] if options.no_lowering else [REFERENCE]
    return list(dict.fromkeys([*options.algorithms, *reference, *peers.available(op)]))


def candidates(
    wanted: Iterable[str],
    layer: Layer,
    at: Setting,
    op: str,
    options: argparse.Namespace,
) -> dict[str, Run]:
    """Return a call for each name; all of them work on the same operands."""
    lc.set_num_threads(at.threads)
    first, second = operands(layer, at.batch, op)
    runs: dict[str, Run] = {}
    for name in wanted:
        if name in peers.NEEDS:
            runs[name] = peers.peer(name, layer, at.batch, op, at.threads, first, second)
        elif options.call == "function":
            runs[name] = function(layer, op, name, first, second)
        else:
            constant = options.constant_weights and op != "weight_grad"
            # The reference is what it is for users who never heard of the option.
            keep = constant and name in options.algorithms
            keywords = {"constant_weights": True} if keep else {}
            plan = plan_for(layer, at.batch, op, name, **keywords)
            runs[name] = planned(plan, first, second)
    return runs
