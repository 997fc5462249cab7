"""GoogLeNet's 20 layers, every algorithm, three passes.

python -m pytest bench/test_googlenet.py --layers 3a --batch 8
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite import generate, time_candidate
from lowerconv.bench.case import Case

pytest.importorskip("pytest_benchmark", reason="pip install lowerconv[bench]")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the benchmarks that the options select."""
    generate(metafunc, "googlenet")


def test_googlenet(benchmark: Any, request: pytest.FixtureRequest, case: Case, name: str) -> None:
    """Time a candidate."""
    time_candidate(benchmark, request, case, name)
