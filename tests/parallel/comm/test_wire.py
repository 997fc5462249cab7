"""Gradients in half precision on the wire."""

from pathlib import Path

import numpy as np
import pytest

from lowerconv.parallel.comm.link import Link
from lowerconv.parallel.comm.wire import Compressed

from ...long import long_but

PROGRAM = Path(__file__).parents[1] / "programs/compressed.py"


@pytest.mark.parametrize("ranks", long_but([1, 3], [1, 2, 3, 4, 5]))
def test_ranks(mpiexec, ranks):
    run = mpiexec(ranks, PROGRAM, ranks)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("right") == ranks


class TestMistakes:
    def test_kind(self):
        with pytest.raises(ValueError, match="kind: 'fp8'; expected one of 'bf16', 'fp16'"):
            Compressed("fp8", 3, 0, 1)

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros(3),
            np.zeros(4, np.float32),
            np.zeros((3, 1), np.float32),
            np.zeros(6, np.float32)[::2],
        ],
        ids=["float64", "size", "shape", "strides"],
    )
    def test_array(self, array):
        with pytest.raises(ValueError, match=r"array: .*; expected contiguous float32 of shape"):
            Compressed("bf16", 3, 0, 1)(Link(None, 0), array)

    def test_link(self):
        compressed = Compressed("bf16", 3, 1, 2)
        with pytest.raises(ValueError, match="link: rank 0 of 1; expected 1 of 2"):
            compressed(Link(None, 0), np.zeros(3, np.float32))
