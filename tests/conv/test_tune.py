"""Tuning from end to end: measured once, remembered, and what "auto" stands for from then on."""

import numpy as np
import pytest

import lowerconv as lc
from lowerconv.conv import tune
from lowerconv.conv.executable import Options
from lowerconv.conv.fused import variants
from lowerconv.conv.plan import _plan_anew
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.wisdom import remember, wisdom_path

X, W = (1, 8, 12, 10), (20, 8, 3, 3)


pytestmark = pytest.mark.usefixtures("own_wisdom")


@pytest.mark.parametrize("op", ["forward", "input_grad", "weight_grad"])
def test_a_problem_is_measured_once_and_remembered(op):
    first = lc.plan_conv2d(X, W, padding=1, op=op, tune=True)
    names = [name for name, _ in first.tuning]
    seconds = [time for _, time in first.tuning]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert any(name.startswith("fused") for name in names) and "lowering" in names
    assert names[0].startswith(first.algorithm)
    assert "measured" in first.reason
    assert wisdom_path().exists()
    for later in (
        lc.plan_conv2d(X, W, padding=1, op=op, tune=True),
        lc.plan_conv2d(X, W, padding=1, op=op),
    ):
        assert later.tuning == []
        assert later.algorithm == first.algorithm and later.choice == names[0]
        assert "when it was measured" in later.reason
        assert later.explain().splitlines()[6:] == first.explain().splitlines()[6:]


@pytest.mark.parametrize("op", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_every_candidate_computes_the_same(op, groups):
    rng = np.random.default_rng(3)
    problem = conv_problem(X, (24, 8 // groups, 3, 3), 1, 1, 1, groups)
    shapes = {"x": problem.x_shape, "w": problem.w_shape, "dy": problem.y_shape}
    x, w, dy = (rng.standard_normal(shape, np.float32) for shape in shapes.values())
    operands = {"forward": (x, w), "input_grad": (dy, w), "weight_grad": (dy, x)}[op]
    results = []
    for candidate in tune.candidates(problem, op, False):
        remember(
            tune.problem_key(problem, op, False),
            {"algorithm": candidate.algorithm, "variant": candidate.variant},
        )
        plan = lc.plan_conv2d(X, problem.w_shape, padding=1, groups=groups, op=op)
        assert plan.algorithm == candidate.algorithm and "measured" in plan.reason
        results.append((plan.algorithm, plan(*operands)))
    assert len(results) > 3
    for algorithm, result in results:
        atol = 1e-4 if algorithm == "winograd" else 1e-5
        np.testing.assert_allclose(result, results[0][1], rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    "choice", [{"algorithm": "gone"}, {"algorithm": "fused", "variant": "gone"}, {"variant": 7}]
)
def test_a_choice_that_no_longer_exists_is_ignored(choice):
    problem = conv_problem(X, W)
    remember(tune.problem_key(problem, "forward", False), choice)
    plan = lc.plan_conv2d(X, W)
    assert plan.algorithm == "fused" and "measured" not in plan.reason


def test_damaged_wisdom_is_ignored_with_a_warning(monkeypatch):
    lc.plan_conv2d(X, W, tune=True)
    monkeypatch.setattr("lowerconv.machine.disk_cache._told_damaged", False)
    (path,) = wisdom_path().iterdir()
    path.write_text("nonsense\n")
    with pytest.warns(RuntimeWarning, match="wisdom"):
        plan = lc.plan_conv2d(X, W)
    assert plan.tuning == [] and "measured" not in plan.reason


def test_an_algorithm_that_was_asked_for_is_not_measured():
    plan = lc.plan_conv2d(X, W, algorithm="lowering", tune=True)
    assert plan.algorithm == "lowering" and plan.tuning == []
    assert not wisdom_path().exists()


@pytest.mark.parametrize("op", ["forward", "input_grad", "weight_grad"])
def test_variants_are_asked_for_by_name(op):
    problem = conv_problem(X, W)
    for name in variants(problem, op, False):
        assert lc.ConvPlan(problem, op, Options("fused", name)).choice == f"fused ({name})"
    with pytest.raises(ValueError, match=r"variant: got 'gone', expected one of None, '.* vectors"):
        lc.ConvPlan(problem, op, Options("fused", "gone"))
    # A plan that comes from a CPU with other variants takes the one of least cost here.
    plan = _plan_anew(problem, op, Options("fused", "gone"), "asked for", [])
    assert plan.choice == "fused"


@pytest.mark.parametrize("op", ["forward", "weight_grad"])
def test_planes_have_no_variants(op):
    problem = conv_problem((1, 16, 8, 8), (16, 1, 3, 3), groups=16)
    with pytest.raises(ValueError, match=r"variant: got '1 vectors', expected one of None$"):
        lc.ConvPlan(problem, op, Options("fused", "1 vectors"))


def test_padded_filters_of_one_tap_have_variants_by_their_number():
    problem = conv_problem((1, 64, 6, 6), (1, 64, 1, 1), padding=1)
    assert variants(problem, "weight_grad", False) == ("1 vectors",)
