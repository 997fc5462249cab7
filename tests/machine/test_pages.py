"""Where the kernel says that memory lies."""

import mmap
import os

import numpy as np
import pytest

from lowerconv.machine.topology import parse_cpu_list
from tests.machine import pages
from tests.machine.pages import page_nodes


def machine_nodes():
    """Return the numbers of the nodes that have memory."""
    try:
        with open("/sys/devices/system/node/has_memory") as file:
            return set(parse_cpu_list(file.read()))
    except FileNotFoundError:
        return {0}


def lying(array):
    try:
        return page_nodes(array)
    except OSError as error:
        pytest.skip(f"the system does not tell where memory lies: {error}")


def test_every_page_that_was_written_lies_on_a_node():
    array = np.empty(64 * 4096, np.uint8)
    array[:] = 1
    nodes = lying(array)
    assert 64 <= len(nodes) <= 65
    assert set(nodes.tolist()) <= machine_nodes()
    assert len(lying(array[:0])) == 0
    assert len(lying(array[5:6])) == 1


def test_pages_that_nobody_has_written_lie_nowhere():
    with mmap.mmap(-1, 16 * mmap.PAGESIZE) as memory:
        array = np.frombuffer(memory, np.uint8)
        array[3 * mmap.PAGESIZE] = 1
        nodes = lying(array)
        assert len(nodes) == 16
        assert np.flatnonzero(nodes >= 0).tolist() == [3]
        del array


def test_gaps_are_refused():
    with pytest.raises(ValueError, match=r"^array: got gaps"):
        page_nodes(np.zeros((4, 4))[:, ::2])


@pytest.mark.parametrize("missing", ["platform", "machine", "permission"])
def test_systems_that_do_not_tell_say_so(monkeypatch, missing):
    if missing == "platform":
        monkeypatch.setattr(pages.sys, "platform", "darwin")
    elif missing == "machine":
        monkeypatch.setattr(pages.platform, "machine", lambda: "vax")
    else:
        # No such call: as where a container forbids it.
        monkeypatch.setattr(pages, "SYS_MOVE_PAGES", {os.uname().machine.lower(): 100_000})
    with pytest.raises(OSError):
        page_nodes(np.ones(10))
