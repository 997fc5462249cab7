"""Whole training steps; ``extra_info`` has the seconds of each kind of layer.

python -m pytest bench/test_training.py --batch 100
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite import generate, time_candidate
from lowerconv.bench.case import Case

pytest.importorskip("pytest_benchmark", reason="pip install lowerconv[bench]")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the benchmarks that the options select."""
    generate(metafunc, "training")


def test_training(benchmark: Any, request: pytest.FixtureRequest, case: Case, name: str) -> None:
    """Time a candidate."""
    time_candidate(benchmark, request, case, name)
