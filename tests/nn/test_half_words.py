"""Networks in bf16 whose convolutions multiply words: as where they compute in float32."""

import copy
import pickle

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn
from lowerconv.nn.conv_pieces import Pass, pieces_of
from lowerconv.nn.memory import Arena
from lowerconv.nn.models import MODELS
from lowerconv.nn.program import Program
from lowerconv.nn.recording import make_graph
from tests.half_words import ISAS_OF_WORDS, multiplied

from ..long import long_but
from .graphs import RandomNetwork
from .test_precision import LAYERS, NEAR, Meeting, check_near, distance, normals, train

PASSES = ("forward", "input_grad", "weight_grad")
LARGE = (4, 3, 16, 17)


# What a CPU with instructions for words would never compute without them is long there.
OF_HARDWARE = list(ISAS_OF_WORDS.values())[-2:]


@pytest.fixture(
    params=long_but(OF_HARDWARE, ISAS_OF_WORDS.values()), ids=ISAS_OF_WORDS, autouse=True
)
def on_words(request):
    with multiplied(request.param):
        yield request.param


def passes(network):
    """Return the passes of all convolutions that compute some images at a time, by layer."""
    frames = [frame for _, frame in network._use.own.execution.current.steps]
    return {
        (frame.name, op): frame.prepared[op]
        for frame in frames
        for op in PASSES
        if isinstance(frame.prepared.get(op), Pass)
    }


def of_words(network):
    """Return which of them multiply words."""
    return {key for key, made in passes(network).items() if made.takes_bits}


class Block(nn.Module):
    """A residual block between branches that are joined."""

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.one = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        self.two = nn.Conv2d(width, width, 1)
        self.left, self.right = nn.Conv2d(width, 24, 1), nn.Conv2d(width, 40, 5, padding=2)
        self.last = nn.Conv2d(64, 8, 1)

    def forward(self, x):
        x = nn.relu(self.stem(x))
        x = nn.relu(self.two(nn.relu(self.one(x))) + x)
        return self.last(nn.concat(nn.relu(self.left(x)), self.right(x)))


def block():
    network = Block()
    network.initialize(np.random.default_rng(2))
    return network


def rounded(network):
    """Return a network with its filters rounded, as words are: what is left is as without words."""
    for parameter in network.parameters().values():
        if parameter.data.ndim == 4:
            bits = parameter.data.view(np.uint32)
            bits[...] = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return network


def test_passes_are_of_words():
    network = block()
    check_near(rounded(network), normals(*LARGE), "bf16", 8 * NEAR["bf16"])
    inner = {"one.0 Conv2d", "two Conv2d", "left Conv2d", "right Conv2d"}
    assert {name.split(" (")[0] for name, _ in of_words(network)} >= inner
    assert {op for _, op in of_words(network)} == set(PASSES)


@pytest.mark.parametrize("name", ["conv-relu", "conv-strided", "conv-grouped", "depthwise", "silu"])
def test_layers(name):
    network = Meeting(LAYERS[name]())
    network.initialize(np.random.default_rng(2))
    often = 4 if "relu" in name else 1
    check_near(rounded(network), normals(5, 3, 12, 13), "bf16", often * NEAR["bf16"])


@pytest.mark.parametrize("seed", range(4))
def test_random_networks(seed):
    network = RandomNetwork(700 + seed, nodes=10, dtype=np.float32)
    network.initialize(np.random.default_rng(seed))
    check_near(rounded(network), normals(3, 3, 9, 10), "bf16", 12 * NEAR["bf16"])


@pytest.mark.parametrize("N", [1, 5])
def test_many_pieces(N, monkeypatch):
    """Images one by one are as all together: but for the order of sums of filters' gradients."""
    x = normals(N, 3, 16, 17)
    network = block()
    whole = train(network, x, "bf16")
    assert of_words(network)
    monkeypatch.setattr("lowerconv.nn.conv_pieces.BYTES", 1)
    other = copy.deepcopy(network)
    pieces = train(other, x, "bf16")
    made = [passes(other)[key] for key in of_words(other)]
    assert max(len(each.pieces) for each in made) == N
    for one, two in zip(whole[0], pieces[0], strict=True):
        np.testing.assert_array_equal(one, two)
    for name, gradient in whole[1].items():
        size = 2e-3 * abs(gradient).max(initial=1e-3)
        np.testing.assert_allclose(pieces[1][name], gradient, rtol=2e-3, atol=size, err_msg=name)


def test_pieces_are_of_pairs():
    for N in (0, 1, 2, 7, 32, 33):
        for image in (0, 1, 1 << 20, 1 << 22, 1 << 30):
            pieces = pieces_of(N, image, 2)
            assert sum(piece.images for piece in pieces) == N
            assert all(piece.first % 2 == 0 for piece in pieces)


def test_bits_are_those_of_any_number_of_threads():
    network, x = block(), normals(*LARGE)
    buffers = {name: array.copy() for name, array in network.buffers().items()}
    found, before = [], lc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            lc.set_num_threads(threads)
            for name, array in network.buffers().items():
                array[...] = buffers[name]
            results, gradients = train(network, x, "bf16")
            assert of_words(network)
            arrays = [*results, *gradients.values(), *network.buffers().values()]
            found.append(b"".join(array.tobytes() for array in arrays))
    finally:
        lc.set_num_threads(before)
    assert len(set(found)) == 1


def test_inference():
    """Called, run, compiled, replayed, copied: the same, near float32, and filters may change."""
    network, x = block(), normals(*LARGE)
    expected = network(x)
    network.precision = "bf16"
    found = network(x)
    assert found.dtype == np.float32
    assert 0 < distance(found, expected) < 4 * NEAR["bf16"]
    infer = network.compile(x.shape)
    first = infer(x).copy()
    assert distance(first, found) < NEAR["bf16"]  # batch norm is folded before filters are rounded
    for _ in range(4):
        np.testing.assert_array_equal(infer(x), first)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(other(x), found)
    for parameter in network.parameters().values():
        parameter.data[...] *= 0.5
    assert not np.array_equal(network(x), found)
    np.testing.assert_array_equal(infer(x), first)


def test_launches_are_replayed():
    """Once compiled, only what reads the caller's arrays is computed step by step."""
    network, x = block(), normals(*LARGE)
    network.precision = "bf16"
    graph = make_graph(network, x.shape, x.dtype, False, constant=True)
    program = Program(network, graph, False, False, Arena(), constant=True)
    first = program.forward(x, nn.Step()).copy()
    for _ in range(4):
        np.testing.assert_array_equal(program.forward(x, nn.Step()), first)
    assert any(
        isinstance(f.prepared["forward"], Pass) and f.prepared["forward"].takes_bits
        for _, f in program.steps
    )
    replay = program._replay
    assert replay is not None
    computed = [part.steps[0][1].name for part in replay._parts if part.last == part.first]
    assert computed == ["stem Conv2d"]


def test_a_step_of_a_model():
    """Scores, loss and gradients of ResNet-20 are those of float32, to what rounding does."""
    network = MODELS["resnet20"].build()
    network.initialize(np.random.default_rng(1))
    x = normals(4, 3, 32, 32)
    network.precision = "bf16"
    check_near(rounded(network), x, "bf16", 30 * NEAR["bf16"])
    assert of_words(network)


def test_memory_of_a_step():
    network = MODELS["resnet20"].build()
    whole = network.memory_report((32, 3, 32, 32))
    network.precision = "bf16"
    half = network.memory_report((32, 3, 32, 32))
    assert half.arena < 0.6 * whole.arena
