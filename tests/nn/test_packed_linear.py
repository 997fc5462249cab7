"""Fully connected layers whose weights never change: with all that follows them in one pass."""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn
from lowerconv.nn import functional as F
from lowerconv.nn.freeze import flushed
from lowerconv.nn.linear import PackedLinear
from lowerconv.nn.recording import make_graph
from lowerconv.ops.pointwise import FUNCTIONS

from ..long import LONG

SEED = 20261127
FUSED = ["relu", "clip", "hard_swish", "silu", "gelu", "leaky_relu", "sigmoid"]


class WithEpilogue(nn.Module):
    """A product of rows, and what may follow it, in any shape."""

    def __init__(self, seed, dtype=np.float32):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.rows, self.inputs, self.outputs = (int(n) for n in rng.integers(1, 40, 3))
        self.wide = (1, self.rows, self.outputs)
        self.linear = nn.Linear(self.inputs, self.outputs, bool(rng.integers(2)), dtype=dtype)
        self.other = nn.Linear(self.inputs, self.outputs, dtype=dtype)
        self.steps = []
        for _ in range(rng.integers(0, 5)):
            kind = str(rng.choice(["bias", "scale", "number", "function", "sum", "view", "kept"]))
            constant = rng.uniform(0.5, 1.5, self.outputs).astype(dtype)
            self.steps.append((kind, constant, str(rng.choice(FUSED))))

    def _follow(self, x, steps, more):
        kept = []
        for kind, constant, function in steps:
            if kind == "bias":
                x = F.arithmetic("add", x, constant)
            elif kind == "scale":
                x = F.arithmetic("mul", constant, x)
            elif kind == "number":
                x = F.arithmetic("sub", x, constant[:1])
            elif kind == "function":
                bounds = (0, np.inf) if function == "relu" else ()
                x = F.pointwise(x, "clip" if function == "relu" else function, *bounds)
            elif kind == "sum":
                x = F.arithmetic("add", F.reshape(more, x.shape), x)
            elif kind == "view":
                x = F.reshape(x, self.wide if len(x.shape) == 2 else self.wide[1:])
            else:
                kept.append(x)
        return (*kept, x)

    def forward(self, x):
        self.returns_all = True
        return self._follow(self.linear(x), self.steps, self.other(x))

    def plain(self, x):
        """Return the results step by step, in float64."""

        def linear(layer):
            bias = layer.bias.data.astype(np.float64) if layer.bias else 0
            return x.astype(np.float64) @ layer.weight.data.T.astype(np.float64) + bias

        return self._follow(linear(self.linear), self.steps, linear(self.other))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_random_followers(dtype):
    for seed in range(SEED, SEED + (200 if LONG else 12)):
        network = WithEpilogue(seed, dtype)
        for layer in (network.linear, network.other):
            if layer.bias:
                layer.bias.data[...] = np.random.default_rng(seed).uniform(-1, 1, network.outputs)
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((network.rows, network.inputs)).astype(dtype)
        bits = set()
        for threads in (1, 3):
            before = lc.get_num_threads()
            lc.set_num_threads(threads)
            try:
                infer = network.compile(x.shape)
                for _ in range(4):  # computed, captured, replayed
                    found = infer(x)
            finally:
                lc.set_num_threads(before)
            found = found if isinstance(found, tuple) else (found,)
            bits.add(b"".join(y.tobytes() for y in found))
        assert len(bits) == 1, seed
        tolerance = 3e-5 if dtype == np.float32 else 1e-12
        for y, expected in zip(found, network.plain(x), strict=True):
            np.testing.assert_allclose(y, expected, tolerance, tolerance, err_msg=f"seed {seed}")


def test_a_bias_behind_a_view_a_function_and_a_sum_are_one_node():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 8, False)

        def forward(self, x):
            y = F.reshape(self.linear(F.reshape(x, (-1, 6))), (2, 5, 8))
            y = F.arithmetic("add", y, np.arange(8, dtype=np.float32))
            y = F.arithmetic(
                "add", F.reshape(F.pad(x, [(0, 0), (0, 0), (0, 2)], "edge"), y.shape), y
            )
            return F.arithmetic("mul", y, F.pointwise(y, "sigmoid"))

    graph = make_graph(Block(), (2, 5, 6), np.float32, False, True)
    (node,) = [n for n in graph.nodes if isinstance(n.layer, PackedLinear)]
    assert node.residual is not None
    assert node.activation is not None and node.activation.function == "silu"
    assert node.layer.bias is not None
    x = np.random.default_rng(SEED).standard_normal((2, 5, 6)).astype(np.float32)
    network = Block()
    y = x @ network.linear.weight.data.T + np.arange(8) + np.pad(x, [(0, 0)] * 2 + [(0, 2)], "edge")
    np.testing.assert_allclose(network(x), y / (1 + np.exp(-y)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        network.compile(x.shape)(x), y / (1 + np.exp(-y)), rtol=1e-5, atol=1e-5
    )


def test_others_that_read_the_product_still_do():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 8)
            self.returns_all = True

        def forward(self, x):
            y = self.linear(x)
            return F.arithmetic("add", y, np.ones(8, np.float32)), y

    network = Twice()
    x = np.random.default_rng(SEED).standard_normal((7, 6)).astype(np.float32)
    more, y = network.compile(x.shape)(x)
    np.testing.assert_allclose(y, x @ network.linear.weight.data.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(more, y + 1, rtol=1e-6)


def test_every_function_is_known():
    assert set(FUSED) <= {"relu", *FUNCTIONS}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_subnormal_weights_are_zeros(dtype):
    tiny = np.finfo(dtype).tiny
    array = np.array([0, -0.0, tiny, -tiny, tiny / 2, -tiny / 8, 1, np.nan, np.inf], dtype)
    kept = flushed(array)
    np.testing.assert_array_equal(kept, np.array([0, 0, tiny, -tiny, 0, 0, 1, np.nan, np.inf]))
    plain = np.ones((3, 100_000), dtype)
    assert flushed(plain) is plain
    plain[2, -1] = tiny / 4
    assert flushed(plain)[2, -1] == 0 and plain[2, -1] != 0


@pytest.mark.parametrize("rows", [1, 9])
def test_subnormal_weights_in_a_network(rows):
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    rng = np.random.default_rng(SEED)
    for parameter in network.parameters().values():
        chosen = rng.random(parameter.data.shape) < 0.3
        parameter.data[chosen] = 1e-40
    x = rng.standard_normal((rows, 4, 4, 4)).astype(np.float32)
    np.testing.assert_allclose(network.compile(x.shape)(x), network(x), rtol=1e-5, atol=1e-6)
