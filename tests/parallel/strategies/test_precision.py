"""Training in 16 bits on several ranks: near that of one process, the same bits on all of them."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from ..conftest import PROGRAMS

# The program itself compares weights and scales of all ranks.
RUNS = {
    "bf16": ["bf16", 0, {}],
    "bf16-sent": ["bf16", 0, {"wire": "bf16"}],
    "bf16-tree": ["bf16", 0, {"strategy": "tree"}],
    "bf16-on-time": ["bf16", 0, {"strategy": "async", "staleness": 0}],
    "fp16": ["fp16", 2.0**8, {}],
    "fp16-sent": ["fp16", 2.0**8, {"wire": "fp16"}],
    "fp16-too-large": ["fp16", 2.0**26, {"overlap": "none"}],
}


@pytest.fixture(scope="module")
def trained(mpiexec, tmp_path_factory) -> Callable[[int], dict[str, np.ndarray]]:
    """Return a function that gives what some ranks have trained."""
    found: dict[int, dict[str, np.ndarray]] = {}

    def run(ranks: int) -> dict[str, np.ndarray]:
        if ranks not in found:
            out = tmp_path_factory.mktemp("precise") / f"{ranks}.npz"
            done = mpiexec(ranks, PROGRAMS / "precise.py", out, json.dumps(RUNS))
            assert done.returncode == 0, done.stderr
            found[ranks] = dict(np.load(out))
        return found[ranks]

    return run


@pytest.mark.parametrize("name", RUNS)
def test_ranks_train_as_one_process(trained, name):
    alone, many = (
        {k: v for k, v in trained(r).items() if k.startswith(f"{name}/")} for r in (1, 3)
    )
    near = 0.05 if name.startswith("bf16") else 0.02
    for key, array in alone.items():
        kind = key.rpartition("/")[2]
        if kind in ("scale", "updates"):
            assert np.array_equal(many[key], array), key
        else:
            assert np.abs(many[key] - array).max() <= near * np.abs(array).max(), key


def test_all_ranks_leave_out_what_overflows(trained):
    for ranks in (1, 3):
        found = trained(ranks)
        assert 0 < found["fp16-too-large/updates"] < found["fp16/updates"] == 10
