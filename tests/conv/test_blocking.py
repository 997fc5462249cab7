"""Blocks fit the panels they are meant for, cover everything, and ask nobody about threads."""

import random

import pytest

import lowerconv as lc
from lowerconv.conv.blas.blocking import (
    forward_blocking,
    input_grad_blocking,
    weight_grad_blocking,
)
from lowerconv.conv.block_budget import QUARTER_MAX, quarter_of_l2
from lowerconv.conv.problem import conv_problem

CHOICES = {
    "forward": forward_blocking,
    "input_grad": input_grad_blocking,
    "weight_grad": weight_grad_blocking,
}


def random_problem(rng: random.Random):
    groups = rng.choice([1, 1, 1, 2, 5])
    R, S = rng.choice([(1, 1), (3, 3), (1, 7), (11, 11), (5, 2)])
    H, W = rng.randint(R, 300), rng.randint(S, 300)
    C, K = rng.randint(1, 600), rng.randint(1, 600)
    return conv_problem(
        (rng.choice([1, 2, 31, 1000]), C * groups, H, W), (K * groups, C, R, S), groups=groups
    )


@pytest.mark.parametrize("op", CHOICES)
def test_blocks_fit_their_panels(op):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(200):
        p = random_problem(rng)
        b = CHOICES[op](p)
        assert min(b) >= 1
        if op != "input_grad" or b.NC > 1:  # one tap of one channel at least
            assert b.KC * b.NC * p.dtype.itemsize <= QUARTER_MAX
        if op == "input_grad":
            assert b.KC % (p.R * p.S) == 0  # whole channels
            assert max(p.N, 1) * 2 >= b.MC


@pytest.mark.parametrize("op", CHOICES)
@pytest.mark.parametrize("batch", [1, 64])
def test_workspace_does_not_grow_with_the_batch(op, batch):
    layers = [((64, 56, 56), (192, 64, 3, 3)), ((512, 7, 7), (512, 512, 3, 3))]
    for image, filters in layers:
        plan = lc.plan_conv2d((batch, *image), filters, padding=1, op=op, algorithm="pipelined")
        partial = 4 * 2**20 if op == "weight_grad" else 0
        assert plan.workspace_bytes <= plan.threads * 2**20 + partial


def test_a_panel_is_a_quarter_of_l2_or_less():
    size = quarter_of_l2()
    assert size >= 1024
    assert size <= QUARTER_MAX
