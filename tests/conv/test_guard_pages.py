"""No kernel touches memory before or behind an array, nor writes to an input.

The kernels run in processes of their own (``guard_pages.py``), where such an access is fatal.
"""

import os
import pickle
import random
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lowerconv as lc

from ..long import drawn
from .cases import (
    DTYPES,
    assert_close,
    by_algorithm,
    by_pass,
    call_of,
    data_of,
    named,
    operands_of,
)
from .guard_pages import PLACES, Job
from .reference import Array

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="guard pages are made with mprotect"
)

CASES = named(
    "single-number",
    "kernel-1x1",
    "kernel-is-image",
    "wide-row",
    "stride-2x3",
    "stride-2-kernel-1x1",
    "stride-leaves-rows-unread",
    "padding-four-sides-stride-2",
    "dilation-and-stride",
    "groups-2-everything",
    "depthwise-multiplier-3",
    "pixels-33",
    "pixels-65",
    "outputs-17",
    "tiles-65x65-kernel-1x1",
    "partial-everywhere-groups-3",
    "small-maps-batch-17-stride-2",
)

FUNCTIONS = {
    "forward": "conv2d",
    "input_grad": "conv2d_input_grad",
    "weight_grad": "conv2d_weight_grad",
}


def child(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """Run ``guard_pages.py`` with the library that is tested here."""
    package_dir = str(Path(lc.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_dir, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("guard_pages.py")), *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=600,
    )


def jobs_of(op: str, algorithm: str, rng: random.Random) -> list[tuple[Job, Array]]:
    """Cases in every place, each with the right result."""
    jobs = []
    for case, dtype, place in product(drawn(rng, CASES, 4), DTYPES, PLACES):
        x, w, bias, dy = data_of(case, dtype)
        operands = list(operands_of(op, x, w, dy))
        expected = call_of(case, op, dtype).expected
        shape: list[Any] = [] if op == "forward" else [expected.shape]
        if op == "forward":
            operands.append(bias)
            expected = expected + bias[:, None, None]
        name = f"{case.name}-{dtype}-{place}"
        out = np.full(expected.shape, np.nan, dtype)
        arguments = [*shape, *case.arguments]
        job = Job(name, FUNCTIONS[op], operands, arguments, algorithm, out, place)
        jobs.append((job, expected))
    return jobs


@by_algorithm
@by_pass
def test_nothing_outside_the_arrays_is_touched(op: str, algorithm: str, rng: random.Random) -> None:
    jobs = jobs_of(op, algorithm, rng)
    # Plain tuples: the child knows the class of the jobs under another module's name.
    done = child(stdin=pickle.dumps([tuple(job) for job, _ in jobs]))
    messages = done.stderr.decode()
    assert done.returncode == 0, f"return code {done.returncode} in {messages[-2000:]}"
    results = pickle.loads(done.stdout)
    for (job, expected), result in zip(jobs, results, strict=True):
        assert result.dtype == job.out.dtype
        assert_close(result, expected)


@pytest.mark.parametrize("how", ["read-before-start", "read-after-end", "write-to-input"])
def test_the_guard_works(how: str) -> None:
    assert child(how).returncode == -signal.SIGSEGV
