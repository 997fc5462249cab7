"""Training with few bits on several ranks is that of one process: steps, and what is drawn."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from ...long import long_but
from ..conftest import PROGRAMS

RUNS = {
    "bits": [{"weight_bits": 4, "activation_bits": 3}, {}],
    "filters-tree": [{"weight_bits": 2, "weight_steps": "filter"}, {"strategy": "tree"}],
    "ternary": [{"ternary_weights": True, "activation_bits": 8}, {}],
    "stochastic": [{"fixed_point": (4, 12), "gradient_fixed_point": (-2, 18)}, {}],
    "nearest": [{"fixed_point": (4, 12), "rounding": "nearest"}, {"overlap": "none"}],
    "on-time": [{"weight_bits": 4, "activation_bits": 4}, {"strategy": "async", "staleness": 0}],
    "fixed-on-time": [{"fixed_point": (4, 12)}, {"strategy": "async", "staleness": 0}],
}


@pytest.fixture(scope="module")
def trained(mpiexec, tmp_path_factory) -> Callable[[int], dict[str, np.ndarray]]:
    """Return a function that gives what some ranks have trained."""
    found: dict[int, dict[str, np.ndarray]] = {}

    def run(ranks: int) -> dict[str, np.ndarray]:
        if ranks not in found:
            out = tmp_path_factory.mktemp("quantized") / f"{ranks}.npz"
            done = mpiexec(ranks, PROGRAMS / "quantized.py", out, json.dumps(RUNS))
            assert done.returncode == 0, done.stderr
            found[ranks] = dict(np.load(out))
        return found[ranks]

    return run


@pytest.mark.parametrize("ranks", long_but([3], [2, 3]))
@pytest.mark.parametrize("name", RUNS)
def test_ranks_train_as_one_process(trained, ranks, name):
    alone, many = (
        {k: v for k, v in trained(r).items() if k.startswith(f"{name}/")} for r in (1, ranks)
    )
    assert len(alone) > 8
    for key, array in alone.items():
        np.testing.assert_allclose(many[key], array, rtol=1e-9, atol=1e-12, err_msg=key)
        if key.endswith("step"):
            assert array.all()  # the first batch has set them
