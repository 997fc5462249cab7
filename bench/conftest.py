"""Options of the pytest-benchmark suite, those of `bench.compare`."""

from __future__ import annotations

import pytest

from bench import peers
from bench.candidates import add_options, check_options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select networks, layers, settings, passes and algorithms."""
    add_options(parser.getgroup("lowerconv").addoption)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that do not fit together."""
    try:
        check_options(config.option)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header() -> list[str]:
    """Say which peers take no part."""
    return [f"{name}: {reason}" for name, reason in peers.missing().items()]
