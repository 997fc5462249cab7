"""The same comparisons under pytest-benchmark: its statistics, its files, its diffs of two runs.

    python -m pytest bench/test_layers.py --network googlenet --layers 3a --at 1,1 --passes forward

A group is a pass of a layer at a setting, with all algorithms and peers in it.  They follow one
another, so a machine that slows down counts against whoever is last: `bench.compare` takes turns.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.candidates import Setting, candidates, names, selected
from lowerconv.bench.cases import Layer
from lowerconv.bench.passes import check_agreement, flops

pytest.importorskip("pytest_benchmark", reason="pip install lowerconv[bench]")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a benchmark of everything that the options select."""
    options = metafunc.config.option
    cases = [
        pytest.param(
            layer, at, op, name, id=f"{network}-{layer.name}-{op}-{at.threads},{at.batch}-{name}"
        )
        for network in options.network
        for layer in selected(network, options)
        for at in options.at
        for op in options.passes
        for name in names(op, options)
    ]
    metafunc.parametrize(("layer", "at", "op", "name"), cases)


def test_layer(
    benchmark: Any, request: pytest.FixtureRequest, layer: Layer, at: Setting, op: str, name: str
) -> None:
    """Time one candidate, once it is known to compute what our first algorithm does."""
    options = request.config.option
    both = dict.fromkeys([options.algorithms[0], name])
    runs = candidates(both, layer, at, op, options)
    check_agreement(runs, request.node.name)
    run = runs[name]
    del runs  # nobody else's threads spin meanwhile
    benchmark.group = request.node.name.removesuffix(f"-{name}]").removeprefix("test_layer[")
    benchmark(run)
    if benchmark.stats:  # there are none with --benchmark-disable
        benchmark.extra_info["GFLOP/s"] = flops(layer, at.batch) / benchmark.stats["median"] / 1e9
