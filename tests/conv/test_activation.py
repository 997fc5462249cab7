"""Activations that convolutions apply last, against passes of their own: the same bits."""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import nn
from lowerconv.codegen.activation import Activation
from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.problem import conv_problem
from lowerconv.nn import recording
from lowerconv.nn.pointwise import Pointwise
from lowerconv.ops.pointwise import FUNCTIONS, pointwise
from lowerconv.runtime.threads import run

CONSTANTS = {"clip": (0.0, 6.0), "leaky_relu": (0.1, 0.0)}


@pytest.mark.parametrize("seed", range(60))
def test_as_a_pass_of_its_own(seed):
    rng = np.random.default_rng(seed)
    groups, channels, filters = map(int, rng.integers(1, (4, 10, 14)))
    if rng.random() < 0.4:  # depthwise
        groups, channels, filters = int(rng.integers(4, 20)), 1, 1
    taps, stride = int(rng.choice([1, 3, 5])), int(rng.choice([1, 1, 2]))
    x_shape = int(rng.integers(1, 4)), groups * channels, *map(int, rng.integers(3, 30, 2))
    dtype = np.dtype(rng.choice(["float32", "float64"]))
    w_shape = groups * filters, channels, taps, taps
    problem = conv_problem(x_shape, w_shape, stride, taps // 2, 1, groups, dtype)
    function = str(rng.choice(sorted(FUNCTIONS)))
    scaled = (0.7, -0.2) if rng.random() < 0.3 else ()
    activation = Activation(function, *CONSTANTS.get(function, (1 / 6, 0.5)), *scaled)
    algorithm = str(rng.choice(lc.algorithms(problem)))
    add, constant = map(bool, rng.integers(2, size=2))
    options = Options(algorithm, bias=True, activation=activation, add=add, constant=constant)
    arrays = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape, w_shape[0]))
    x, w, bias = arrays
    threads = lc.get_num_threads()
    lc.set_num_threads(int(rng.integers(1, 4)))
    try:
        plan = ConvPlan(problem, "forward", options)
        found = rng.standard_normal(plan.result_shape).astype(dtype)
        expected = found.copy()
        plan(x, w, bias, out=found)
        ConvPlan(problem, "forward", options._replace(activation=None))(x, w, bias, out=expected)
        images = expected.reshape(-1), expected[0].size, *expected.shape
        for kind, *constants in ((function, *activation[1:3]), ("affine", *activation[3:])):
            run(pointwise, images, images, FUNCTIONS[kind], *map(dtype.type, constants))
    finally:
        lc.set_num_threads(threads)
    np.testing.assert_array_equal(found, expected, err_msg=f"seed {seed}: {problem}, {options}")


def test_parts_of_a_row_of_tiles():
    """Pieces of a plane that is read in place need not be whole rows of tiles."""
    activation = Activation("hard_swish", 0.0, 0.0)
    threads = lc.get_num_threads()
    try:
        for count, side in ((1, 7), (2, 13), (3, 31), (4, 56)):
            lc.set_num_threads(count)
            problem = conv_problem((1, 24, side, side + 1), (40, 24, 1, 1), 1, 0, 1, 1, "float32")
            rng = np.random.default_rng(count)
            x = rng.standard_normal(problem.x_shape).astype(np.float32)
            w = rng.standard_normal(problem.w_shape).astype(np.float32)
            for algorithm in ("fused", "pipelined"):
                plain = ConvPlan(problem, "forward", Options(algorithm))(x, w)
                found = ConvPlan(problem, "forward", Options(algorithm, activation=activation))(
                    x, w
                )
                expected = plain * (np.clip(plain + 3, 0, 6) / np.float32(6))
                np.testing.assert_array_equal(found, expected)
    finally:
        lc.set_num_threads(threads)


def test_of_gradients_is_refused():
    problem = conv_problem((1, 2, 5, 5), (3, 2, 3, 3), 1, 1, 1, 1, "float32")
    with pytest.raises(ValueError, match="with a bias or an activation, expected 'forward'"):
        ConvPlan(problem, "input_grad", Options(activation=Activation("silu", 1.0, 0.0)))


class Branches(nn.Module):
    """A result that has other readers than its activation, and a sum before another one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.silu, self.swish = Pointwise("silu"), Pointwise("hard_swish")
        self.c = nn.Conv2d(8, 8, 1, groups=8)
        self.clip = Pointwise("clip", 0.0, 6.0)

    def forward(self, x):
        shared = self.a(x)
        y = self.silu(shared)
        return self.clip(self.c(self.swish(self.b(y) + shared)))


def test_networks_apply_them_in_the_same_pass(monkeypatch):
    network = Branches()
    network.initialize(np.random.default_rng(1))
    x = np.random.default_rng(0).standard_normal((2, 3, 9, 11)).astype(np.float32)
    step = nn.Step(training=True)
    graphs = [recording.make_graph(network, x.shape, x.dtype, training) for training in (0, 1)]
    inference, training = ([type(n.layer).__name__ for n in g.nodes] for g in graphs)
    assert inference == ["Conv2d", "Pointwise", "Conv2d", "Conv2d"]
    assert training.count("Pointwise") == 3
    found, compiled = network(x), network.compile(x.shape)(x)
    in_training = network.run(x, step).copy()
    monkeypatch.setattr(recording, "fuse", lambda graph, training: None)
    np.testing.assert_array_equal(found, network.compile(x.shape)(x))
    np.testing.assert_array_equal(found, compiled)
    np.testing.assert_array_equal(found, in_training)
