"""A network of which every rank computes a part is the network."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.graph import Graph
from lowerconv.nn.models.build import Layers
from lowerconv.nn.models.googlenet import Inception
from lowerconv.parallel.sharding import collective_layers
from lowerconv.parallel.sharding.split import SplitNetwork

from ...long import long_rows_but
from ..networks import NETWORKS, make

PROGRAM = Path(__file__).parents[1] / "programs/splitting.py"


class Many:
    """An engine that only counts: what is recorded depends on nothing else."""

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks


def recorded(network, ranks=2, **options):
    """Return the graph of rank 0 in training, fused, and its network."""
    split = SplitNetwork(network, (1, *network.image_shape), Many(0, ranks), **options)
    return Graph(split, (2, *network.image_shape), np.float64, True), split


def kind(node):
    return type(node.layer).__name__


def kinds(graph):
    return [kind(node) for node in graph.nodes]


@pytest.mark.parametrize(
    ("ranks", "batch", "partial", "seed"),
    long_rows_but([1, 2], [(1, 3, 0, 0), (2, 3, 0, 1), (3, 4, 1, 2), (4, 1, 0, 3), (5, 2, 1, 4)]),
)
def test_same_as_one_process(mpiexec, ranks, batch, partial, seed):
    print("seed", seed)
    done = mpiexec(ranks, PROGRAM, ranks, batch, partial, seed, *NETWORKS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("right") == ranks


@pytest.mark.parametrize("seed", [0, pytest.param(20, marks=pytest.mark.long)])
def test_random_networks(mpiexec, seed):
    names = [f"random-{seed + i}" for i in range(20)]
    print("seed", seed)
    done = mpiexec(2 + seed // 20, PROGRAM, 2 + seed // 20, 2, seed // 20, seed + 1, *names)
    assert done.returncode == 0, done.stderr


def test_a_value_is_gathered_once():
    class Fork(nn.Module):
        image_shape = (3, 5, 5)

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 1, dtype=np.float64)
            self.left = nn.Conv2d(6, 4, 1, dtype=np.float64)
            self.right = nn.Conv2d(6, 4, 1, dtype=np.float64)

        def forward(self, x):
            x = self.stem(x)
            return nn.flatten(nn.concat(self.left(x), self.right(x)))

    graph, _ = recorded(Fork())
    # One for the stem, and one for the result.
    assert kinds(graph).count("AllGatherBegin") == 2
    names = kinds(graph)
    assert names.index("AllGatherBegin") == names.index("Conv2d") + 1
    ends = [n.layer for n in graph.nodes if isinstance(n.layer, collective_layers.AllGatherEnd)]
    assert [end.summed for end in ends] == [True, False]


def test_branches_are_sent_while_others_are_computed():
    block = nn.Sequential(
        Inception(Layers(), False, 8, 4, 4, 4, 4, 4, 4), nn.Conv2d(16, 4, 1), nn.Flatten()
    )
    graph = Graph(SplitNetwork(block, (1, 8, 6, 6), Many(0, 2)), (2, 8, 6, 6), np.float32, True)
    first = {
        id(n.layer.collective): i for i, n in enumerate(graph.nodes) if kind(n) == "AllGatherBegin"
    }
    hidden = 0
    for i, node in enumerate(graph.nodes):
        if kind(node) == "AllGatherEnd":
            between = graph.nodes[first[id(node.layer.collective)] + 1 : i]
            hidden += any(kind(other) == "Conv2d" for other in between)
    assert hidden == 3, kinds(graph)  # those of three branches of four


def test_linear_layers_are_split_by_what_moves_less():
    def layers(*widths):
        network = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths)))
        network.image_shape = (widths[0],)
        graph = Graph(
            SplitNetwork(network, (1, widths[0]), Many(0, 3)), (2, widths[0]), np.float32, True
        )
        return [name for name in kinds(graph) if name not in ("Linear", "Bias")]

    assert layers(8, 6, 9, 9) == ["ReplicateBegin", "ReplicateEnd"] + 2 * [
        "AllGatherBegin",
        "AllGatherEnd",
    ] + [
        "AllGatherBegin",
        "AllGatherEnd",
    ]
    assert layers(8, 9, 5, 4)[2:] == [
        "ReduceScatterBegin",
        "ReduceScatterEnd",
        "AllReduceBegin",
        "AllReduceEnd",
    ]
    assert layers(8, 9, 2)[2:] == [
        "AllReduceBegin",
        "AllReduceEnd",
    ]  # narrower than the ranks are many


def test_memory_of_what_is_split_is_given_away():
    network = make("Plain")
    before = sum(p.data.nbytes for p in network.parameters().values())
    split = SplitNetwork(network, (1, *network.image_shape), Many(0, 2))
    after = sum(p.data.nbytes for p in split.parameters().values())
    assert after < 0.6 * before
    for p in network.parameters().values():
        assert p.data.strides == (0,) * p.data.ndim or any(
            p is own for own in split.parameters().values()
        )


def test_it_cannot_be_initialized_any_more():
    _, split = recorded(make("Plain"))
    with pytest.raises(RuntimeError, match="the network is split"):
        split.initialize(np.random.default_rng(0))


def test_layers_without_a_name():
    class Hidden(nn.Module):
        image_shape = (4,)

        def __init__(self):
            super().__init__()
            self.__dict__["layer"] = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x)

    with pytest.raises(ValueError, match="Linear: has parameters but no name"):
        recorded(Hidden())
