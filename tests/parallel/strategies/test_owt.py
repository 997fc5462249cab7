"""Model and hybrid parallelism train what one process trains, whatever the network and scheme."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies.owt import OWT
from lowerconv.parallel.strategies.strategy import Work

from ...long import drawn, long_but
from ..networks import make

PROGRAMS = Path(__file__).parents[1] / "programs"
RANKS = [1, 2, 3, 4, 5]
BATCHES = [7, 2, 60, 5]  # divides and does not, and fewer than ranks


def owt(network, border=None, scheme="c", **more):
    options = {"strategy": "owt", "owt_scheme": scheme, "bucket_mib": 1e-3}
    options |= {"owt_border": border} if border else {}
    extra = {k: more.pop(k) for k in list(more) if k.startswith("owt_") or k == "overlap"}
    return {"network": network, "options": options | extra, "batches": BATCHES, **more}


def model(network, **more):
    return {"network": network, "options": {"strategy": "model"}, "batches": BATCHES, **more}


CASES = {
    "model": [
        model("Plain"),
        model("Plain", accumulate=2),
        model("Branches", options={"strategy": "model", "overlap": "layers"}),
        model("Residual", sync=True),
        model("Heads", optimizer="adam"),
        model("Unlearnt"),
    ],
    "schemes": [
        owt("Plain", scheme="a"),
        owt("Plain", scheme="b"),
        owt("Plain", scheme="c", optimizer="adam"),
        owt("Plain", scheme="c", owt_chunks=2),
        owt("Plain", scheme="c", owt_chunks=7, overlap="none"),
        owt("Plain", "4", "b", overlap="layers"),
        owt("Plain", scheme="c", accumulate=2),
    ],
    "networks": [
        owt("Plain", "1"),
        owt("Branches"),
        owt("Branches", "left", "b"),
        owt("Branches", "last", "a"),
        owt("Residual", "second", "a", sync=True),
        owt("Residual", "narrow", "c", sync=True),
        owt("Heads", "third", "b"),
        owt("Heads", "second"),
    ],
    "updates": [
        owt("Plain", owt_chunks=4, owt_updates=2),
        owt("Plain", "4", owt_chunks=3, owt_updates=3, optimizer="adam"),
    ],
}


def launch(mpiexec, ranks, seed, *cases):
    print("seed", seed)
    done = mpiexec(ranks, PROGRAMS / "strategies.py", ranks, seed, *map(json.dumps, cases))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right") == ranks


@pytest.mark.parametrize("ranks", long_but([3, 5], RANKS))
def test_same_as_one_process(mpiexec, ranks, rng):
    """Of each group some, of five ranks fewer: all take as long as they have layers."""
    cases = [drawn(rng, group, 3 if ranks == 3 else 1) for group in CASES.values()]
    launch(mpiexec, ranks, 10 * ranks, *chain(*cases))


@pytest.mark.parametrize("network", long_but(["Residual"], ["Plain", "Residual"]))
def test_arrays_of_three_ranks_are_taken_by_two(mpiexec, tmp_path, network):
    """Weights, running statistics and velocities, by other strategies too, and by one process."""
    cases = [
        owt(network, "4" if network == "Plain" else "narrow", sync=True),
        model(network, sync=True),
    ]
    file = {case["options"]["strategy"]: str(tmp_path / f"{n}.npz") for n, case in enumerate(cases)}
    saving = [c | {"batches": [7, 2], "save": file[c["options"]["strategy"]]} for c in cases]
    launch(mpiexec, 3, 1, *saving)
    more = {"steps": 2, "batches": [7, 2, 5, 6]}
    launch(mpiexec, 2, 1, *[c | more | {"take": name} for c in cases for name in file.values()])
    data = cases[0] | {"options": {"strategy": "data"}} | more
    launch(mpiexec, 1, 1, *[data | {"take": name} for name in file.values()])


def strategy_of(network, **options):
    return OWT(
        network,
        lambda module: nn.SGD(module, 0.1),
        Communicator(),
        ParallelOptions("owt", **options),
        network.image_shape,
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Unlearnt", {"owt_border": "one"}, "owt_border: got 'one', before which nothing"),
        ("Plain", {"owt_border": "16"}, None),
        ("Plain", {"owt_border": "99"}, "border: got '99', which is no layer of the network"),
        ("Plain", {"owt_scheme": "a", "owt_updates": 2}, "owt_updates: got 2, expected at most 1"),
        ("Plain", {"owt_chunks": 2, "owt_updates": 3}, "owt_updates: got 3, expected at most 2"),
        ("Plain", {"owt_scheme": "b", "owt_chunks": 2}, "owt_chunks: got 2 with scheme 'b'"),
    ],
)
def test_what_cannot_be(name, options, message):
    network = make(name)
    if message is None:
        assert strategy_of(network, **options).border == "16"
        return
    with pytest.raises(ValueError, match=message):
        strategy_of(network, **options)


def test_synchronized_batch_norm_behind_the_border():
    network = make("Residual")
    network.norm2.synchronized = True
    options = {"owt_border": "second", "owt_chunks": 2}
    with pytest.raises(ValueError, match="owt_scheme: got 'c' with 'norm2' after the border"):
        strategy_of(network, **options)
    network.norm2.synchronized = False
    strategy_of(network, **options)


def test_several_updates_of_accumulated_batches():
    network = make("Plain")
    strategy = strategy_of(network, owt_updates=2, owt_chunks=2)
    images = np.zeros((2, *network.image_shape))
    work = Work(images, np.zeros(2, np.int64), 2, 4, nn.Step(True), 0.1, last=False)
    with pytest.raises(ValueError, match="owt_updates: got 2 with several batches in an update"):
        strategy.train(work)


@pytest.mark.parametrize("name", ["model", "owt"])
def test_lars_needs_whole_parameters(mpiexec, name):
    done = mpiexec(2, PROGRAMS / "lars.py", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("optimizer: got LARS, which needs norms of whole parameters") == 2
