"""Tests of the emulator itself: only where it is asked for, and there."""

import pytest

from . import emulator


@pytest.fixture(autouse=True)
def emulated():
    if reason := emulator.missing():
        pytest.skip(reason)
