"""A network whose images are divided by rows is the network."""

import re
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.graph import Graph
from lowerconv.nn.models import MODELS
from lowerconv.parallel.sharding.halo_layer import HaloLayer
from lowerconv.parallel.sharding.row_split import RowNetwork, row_window

from ...long import long_rows_but
from ..networks import NETWORKS

PROGRAM = Path(__file__).parents[1] / "programs/rows.py"


class Many:
    """An engine that only counts: what is recorded depends on nothing else."""

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks


def divided(network, image_shape, rank=0, ranks=2):
    """Return this rank's part of a network, and its graph in training."""
    part = RowNetwork(network, (1, *image_shape), Many(rank, ranks))
    return part, Graph(part, (2, *image_shape), np.float32, True)


def kinds(graph):
    return [type(node.layer).__name__ for node in graph.nodes]


@pytest.mark.parametrize(
    ("ranks", "batch", "seed"),
    long_rows_but([0, 1, 2, 4], [(1, 3, 0), (2, 3, 1), (3, 4, 2), (4, 1, 3), (5, 1, 4)]),
)
def test_same_as_one_process(mpiexec, ranks, batch, seed):
    """Forward, all gradients, statistics and dropout, of odd heights and uneven shares."""
    print("seed", seed)
    done = mpiexec(ranks, PROGRAM, ranks, batch, seed, *NETWORKS)
    assert done.returncode == 0, done.stderr
    least = len(NETWORKS) - (ranks > 4)  # what begins with four rows is not for five
    assert done.stdout.count(f"right: {least} divided") == ranks


@pytest.mark.parametrize(
    ("ranks", "seed"), [(3, 0), (5, 1)] + [pytest.param(2, 2, marks=pytest.mark.long)]
)
def test_random_networks(mpiexec, ranks, seed):
    names = [f"windows-{20 * seed + i}" for i in range(20)]
    names += [f"random-{5 * seed + i}" for i in range(5)]
    print("seed", seed)
    done = mpiexec(ranks, PROGRAM, ranks, 2, seed, *names)
    assert done.returncode == 0, done.stderr
    (counts,) = {tuple(re.findall(r"right: (\d+) divided", done.stdout))}
    assert len(set(counts)) == 1
    assert int(counts[0]) > 15


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_resnet_moves_nothing_but_halos(ranks):
    network = MODELS["resnet18"].build((3, 1080, 64))
    part, graph = divided(network, (3, 1080, 64), ranks - 1, ranks)
    names = kinds(graph)
    assert "MoveRows" not in names
    assert names.count("HaloLayer") == 17  # the first convolution takes what it needs
    assert names.count("TakeRows") == 1
    assert (part.last, part.first) == ("layer4.1.bn2", "avgpool")
    halo = next(node.layer for node in graph.nodes if isinstance(node.layer, HaloLayer))
    assert len(halo.seams) == 1  # of the last rank
    assert list(part.parameters()) == list(network.parameters())
    row = 4 * 64 * 16  # bytes of a map of the first stage, as of the others: half as wide, twice C
    # Both ways at seams of 4 convolutions, and then of 3 a stage; one way where a stride begins.
    both, one_way = 2 * (4 + 3 * 3) * row, (2 + 3) * row
    assert part.halo_bytes == (ranks - 1) * (both + one_way)


def test_activations_are_divided():
    """On each rank, for a batch of one."""
    whole = MODELS["resnet20"].build((3, 64, 64))
    part, _ = divided(MODELS["resnet20"].build((3, 64, 64)), (3, 64, 64))
    one, half = (network.memory_report((1, 3, 64, 64)) for network in (whole, part))
    assert half.arena < 0.6 * one.arena


def test_heights_with_fewer_rows_than_ranks_become_samples():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.MaxPool2d(4),
        nn.Conv2d(4, 4, 1),
        nn.GlobalAvgPool2d(),
        nn.Flatten(),
    )
    part, graph = divided(network, (3, 16, 16), 1, 3)
    assert (part.last, part.first) == ("2", "3")
    assert kinds(graph).count("RowsToSamples") == 1
    assert "rows (5, 6, 5) up to layer 2, samples from layer 3 on" in part.describe()


@pytest.mark.parametrize(
    ("first", "shape", "layer"),
    [
        (nn.Flatten(), (3, 8, 8), "0"),
        (nn.MaxPool2d(4), (3, 8, 8), "0"),
        (nn.Conv2d(3, 4, 2, padding=2), (3, 8, 8), "0"),  # windows without a row of the image
    ],
    ids=["flatten", "few-rows", "padding"],
)
def test_what_cannot_be_divided_is_refused(first, shape, layer):
    with pytest.raises(ValueError, match=f"parallel: got 'spatial' with layer '{layer}'"):
        divided(nn.Sequential(first, nn.Flatten()), shape, 0, 3)


def test_images_of_another_size_are_refused():
    part, _ = divided(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), (3, 9, 9))
    with pytest.raises(ValueError, match=r"x: got shape \(1, 3, 8, 9\), expected images \(3, 9, 9"):
        part.run(np.zeros((1, 3, 8, 9), np.float32))
    with pytest.raises(ValueError, match=r"x_shape: got \(1, 9\), expected \(N, C, H, W\)"):
        RowNetwork(nn.Sequential(nn.Linear(9, 2)), (1, 9), Many(0, 2))


def test_layers_without_a_name():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.__dict__["layer"] = nn.Conv2d(3, 3, 3)

        def forward(self, x):
            return self.layer(x)

    with pytest.raises(ValueError, match="Conv2d: has parameters but no name"):
        divided(Hidden(), (3, 9, 9))


def test_what_is_derived_is_not_divided():
    class Odd(nn.MaxPool2d):
        pass

    assert row_window(Odd(2), (1, 3, 8, 8)) is None
    assert row_window(nn.MaxPool2d(2), (1, 3, 8, 8)) is not None
