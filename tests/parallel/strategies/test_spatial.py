"""Spatial parallelism trains what one process trains, whatever the network."""

import json
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.spatial import SpatialParallel

from ...long import long_but
from ..networks import make

PROGRAMS = Path(__file__).parents[1] / "programs"
BATCHES = [1, 7, 4, 2]  # fewer than ranks, and more


def spatial(network, **more):
    options = {"strategy": "spatial", "bucket_mib": 1e-3} | more.pop("options", {})
    return {"network": network, "options": options, "batches": BATCHES, **more}


CASES = [
    spatial("Plain"),
    spatial("Plain", accumulate=2, options={"overlap": "layers"}),
    spatial("Branches", options={"overlap": "none", "deterministic": True}),
    # Not with Adam: a bias before batch norm has no gradient but rounding, which Adam would scale.
    spatial("Residual"),
    spatial("Heads", optimizer="adam", options={"overlap": "thread"}),
    spatial("windows-6"),
]


def launch(mpiexec, ranks, seed, *cases):
    print("seed", seed)
    done = mpiexec(ranks, PROGRAMS / "strategies.py", ranks, seed, *map(json.dumps, cases))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right") == ranks


@pytest.mark.parametrize("ranks", long_but([2, 3], [1, 2, 3, 4, 5]))
def test_same_as_one_process(mpiexec, ranks):
    """Losses, weights, statistics and scores; batch norm that is not synchronized, too."""
    launch(mpiexec, ranks, 10 * ranks, *CASES)


def test_arrays_of_three_ranks_are_taken_by_two_and_by_one(mpiexec, tmp_path):
    file = str(tmp_path / "spatial.npz")
    case = spatial("Residual", sync=True)
    launch(mpiexec, 3, 1, case | {"batches": [7, 2], "save": file})
    more = {"steps": 2, "batches": [7, 2, 5, 6], "take": file}
    launch(mpiexec, 2, 1, case | more)
    launch(mpiexec, 1, 1, case | more | {"options": {"strategy": "data"}})


def test_one_rank_has_everything():
    network = make("Residual")
    strategy = SpatialParallel(
        network,
        lambda module: nn.SGD(module, 0.1),
        Communicator(),
        ParallelOptions("spatial"),
        network.image_shape,
    )
    assert strategy.describe() == ""
    assert strategy.loader_share == (0, 1)
    x = np.ones((2, *network.image_shape))
    np.testing.assert_array_equal(strategy.infer(x), network.run(x))
