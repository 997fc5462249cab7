"""Two networks and every algorithm on one thread and on more.

python -m pytest bench/test_threads.py --threads 2 --layers ^conv3
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.suite import generate, time_candidate
from lowerconv.bench.case import Case

pytest.importorskip("pytest_benchmark", reason="pip install lowerconv[bench]")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make the benchmarks that the options select."""
    generate(metafunc, "threads")


def test_threads(benchmark: Any, request: pytest.FixtureRequest, case: Case, name: str) -> None:
    """Time a candidate."""
    time_candidate(benchmark, request, case, name)
