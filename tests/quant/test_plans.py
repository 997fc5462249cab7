"""Plans of integer networks: what they tell, and what they share."""

import copy

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.words.integer import IntegerConv
from lowerconv.quant.conv import IntegerConv2d
from tests.quant.networks import SHAPE, images, make


@pytest.fixture
def integer():
    return lc.quantize(make("residual"), images())


def plans(network, count):
    """Return the plans of a run, by layer."""
    found = {}

    def watch(layer, frame, what):
        if isinstance(layer, IntegerConv2d):
            found[frame.name] = frame.prepared["forward"]

    handle = network.register_watch(watch)
    network.run(images(count, seed=2))
    handle.remove()
    assert found
    return found


def test_algorithm_and_kernel_are_explained(integer):
    explained = integer.explain((2, *SHAPE))
    rows = [row for row in explained.layers if row.operator.startswith("IntegerConv2d")]
    assert len(rows) == len(plans(integer, 2))
    for row in rows:
        assert row.algorithm == "fused"
        assert "lanes" in row.reason
        assert f"fused: {row.reason}" in str(explained)
    assert all(not row.algorithm for row in explained.layers if row not in rows)


def test_a_plan_is_explained():
    plan = IntegerConv(
        conv_problem((2, 8, 9, 9), (6, 8, 3, 3), padding=1), x_kind="s8", residual="u8", low=3
    )
    text = plan.explain()
    float32 = lc.plan_conv2d((2, 8, 9, 9), (6, 8, 3, 3), padding=1, algorithm="fused").explain()
    names = [line.split("  ")[0] for line in text.splitlines()]
    assert [line.split("  ")[0] for line in float32.splitlines() if "  " in line] == [
        name for name in names if name not in ("products", "epilogue")
    ]
    for part in ("words of four s8", "s8 by s8", "scale, shift, residual, u8 in 3 ... 255"):
        assert part in text
    assert (
        "epilogue"
        not in IntegerConv(conv_problem((2, 8, 9, 9), (6, 8, 3, 3)), out="int32").explain()
    )


def test_scratch_is_reported(integer):
    found = max(plan.workspace_bytes for plan in plans(integer, 2).values())
    assert integer.memory_report((2, *SHAPE)).workspace == found > 0


def test_batches_share_packed_filters(integer):
    one, four = plans(integer, 1), plans(integer, 4)
    assert one.keys() == four.keys()
    shared = 0
    for name, plan in four.items():
        same = plan._executable.packed_key() == one[name]._executable.packed_key()
        assert (plan._packed is one[name]._packed) == same
        shared += same
    assert shared
    x = images(4, seed=5)
    alone = [copy.deepcopy(integer)(x[i : i + 1])[0] for i in range(4)]  # which packs its own
    for first, second in ((1, 4), (4, 1)):
        network = copy.deepcopy(integer)
        for count in (first, second):
            np.testing.assert_array_equal(network(x[:count]), alone[:count])


def test_layers_do_not_share():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, (1, 2, 6, 6), np.uint32)
    filters = [rng.integers(-127, 128, (5, 8, 3, 3)).astype(np.int8) for _ in range(2)]
    kept = {}
    for w in filters:
        alone, sharing = (
            IntegerConv(conv_problem((1, 8, 6, 6), w.shape), out="int32") for _ in range(2)
        )
        alone.prepack(w)
        sharing.prepack(w, shared=kept, origin=id(w))
        np.testing.assert_array_equal(sharing(x), alone(x))
    assert len(kept) == 2


def test_filters_may_change_where_nobody_shares_them():
    plan = IntegerConv(conv_problem((1, 8, 6, 6), (5, 8, 3, 3)), out="int32")
    w, x = np.ones((5, 8, 3, 3), np.int8), np.full((1, 2, 6, 6), 0x01010101, np.uint32)
    plan.prepack(w)
    w[:] = 0
    plan.threads += 1  # as if the system had fewer than it had promised: packed anew
    assert (plan(x) == 72).all()
