"""Options of the pytest-benchmark suites: those of `bench.compare`, and two for the tables."""

from __future__ import annotations

import pytest

import lowerconv as lc
from bench import peers
from bench.candidates import add_options, check_options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select networks, layers, settings, passes and algorithms."""
    group = parser.getgroup("lowerconv")
    add_options(group.addoption)
    group.addoption("--batch", type=int, help="of test_TABLE.py; default: that of the table")
    group.addoption("--threads", type=int, help="of test_TABLE.py; default: one per core")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that do not fit together."""
    options = config.option
    options.threads = options.threads or lc.get_num_threads()
    try:
        lc.set_num_threads(options.threads)
        check_options(options)
        if options.batch is not None and options.batch < 1:
            raise ValueError(f"--batch: got {options.batch}, expected at least 1")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header() -> list[str]:
    """Say which peers take no part."""
    return [f"{name}: {reason}" for name, reason in peers.missing().items()]
