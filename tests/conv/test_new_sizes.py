"""Images of new sizes: what is compiled for them, which must be little, and soon nothing."""

import random

import numpy as np
import pytest

import lowerconv
from lowerconv.codegen.activation import Activation
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.kernel import Kernel
from lowerconv.conv import fused
from lowerconv.conv.executable import Options
from lowerconv.conv.fused import kernels
from lowerconv.conv.like_plans import LikePlans
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.winograd import forward

SEED = 0  # of sizes: kernels are counted
SIZES = 100
MOST = 200  # pixels of a side
#          K, C/groups, R, S; stride, padding, groups, pass; kernels for images of all sizes
KINDS = {
    "product": ((24, 16, 1, 1), 1, 0, 1, "forward", 8),
    "3x3": ((24, 16, 3, 3), 1, 1, 1, "forward", 16),
    "3x3-stride-2": ((24, 16, 3, 3), 2, 1, 1, "forward", 24),
    "transposed": ((24, 16, 2, 2), 2, 0, 1, "input_grad", 60),
    "depthwise": ((16, 1, 3, 3), 1, 1, 16, "forward", 20),
    "depthwise-5x5-stride-2": ((16, 1, 5, 5), 2, 2, 16, "forward", 24),
}


@pytest.fixture
def uncompiled(monkeypatch):
    """Let plans be made, that nobody calls, without compiling their kernels."""
    caches = kernels._filter_kernel, kernels._pixel_kernel, fused._pattern, forward._microkernel
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(Kernel, "address", lambda kernel: 0)
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_few_kernels_serve_images_of_all_sizes(kind, uncompiled):
    w_shape, stride, padding, groups, op, most = KINDS[kind]
    rng, known, new = random.Random(SEED), set(), []
    for _ in range(SIZES):
        pixels = rng.randint(17, MOST), rng.randint(17, MOST)
        problem = conv_problem((1, 16, *pixels), w_shape, stride, padding, 1, groups)
        plan = ConvPlan(problem, op, Options("fused", constant=True))
        wanted = set(plan.executable.kernels)
        new.append(len(wanted - known))
        known |= wanted
    # Without masks the lanes of the last vector are a part of a kernel.
    assert len(known) <= most * (1 if host_isa().masks else 4)
    assert sum(new[SIZES // 2 :]) <= len(known) // 2


def decided(plan):
    """Return what a plan has decided, in words and numbers, but for addresses."""
    executable = plan.executable
    parts = plan.choice, plan.reason, plan.options, plan.call, plan.explain(), plan.workspace_bytes
    return (*parts, executable.threads, executable.kernels, executable.schedule)


def test_plans_of_layers_alike_are_those_of_each(uncompiled):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng, like = random.Random(seed), LikePlans()
    activations = [None, *(Activation("clip", 0.0, most) for most in (1.0, 6.0))]
    for _ in range(60):
        w_shape, stride, padding, groups, op, _ = rng.choice([*KINDS.values()])
        pixels = rng.choice([(20, 30), (31, 200)])
        problem = conv_problem((1, 16, *pixels), w_shape, stride, padding, 1, groups)
        activation = rng.choice(activations) if op == "forward" else None
        options = Options(activation=activation, bias=op == "forward", constant=rng.random() < 0.5)
        assert decided(like.plan(problem, op, options)) == decided(ConvPlan(problem, op, options))


def test_constants_of_activations_make_no_kernels():
    problem = conv_problem((1, 16, 20, 20), (24, 16, 1, 1))
    depthwise = conv_problem((1, 16, 20, 20), (16, 1, 3, 3), padding=1, groups=16)
    for each in (problem, depthwise):
        plans = [
            ConvPlan(each, "forward", Options("fused", activation=activation))
            for activation in (
                Activation("hard_swish", 0.0, 0.0, 2.0, 1.0),
                Activation("hard_swish", 0.0, 0.0, 0.5, 0.0),
            )
        ]
        first, second = (plan.executable for plan in plans)
        assert first.kernels == second.kernels
        assert first.address != second.address  # each has a record of its own


@pytest.mark.parametrize("algorithm", ["fused", "winograd"])
def test_layers_that_are_alike_keep_what_is_theirs(algorithm):
    """Filters, and the constants of activations, of plans whose kernels and tables are the same."""
    rng = np.random.default_rng(SEED)
    problem = conv_problem((1, 16, 20, 20), (24, 16, 3, 3), padding=1)
    x = rng.standard_normal(problem.x_shape).astype(np.float32)
    made = []
    for number in range(3):
        w = rng.standard_normal(problem.w_shape).astype(np.float32)
        activation = Activation("leaky_relu", 0.1 * number, 0.0, 1.0 + number, 0.5)
        options = Options(algorithm, activation=activation, constant=True)
        made.append((ConvPlan(problem, "forward", options), w, activation))
    for plan, w, activation in made + made[::-1]:
        y = lowerconv.conv2d(x, w, padding=1, algorithm=algorithm)
        want = np.where(y > 0, y, np.float32(activation.a) * y)
        want = want * np.float32(activation.scale) + np.float32(activation.shift)
        np.testing.assert_allclose(plan(x, w), want, rtol=1e-6, atol=1e-6)
