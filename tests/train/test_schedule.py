"""Schedules: PyTorch's where it has them."""

import pytest

from lowerconv.train.schedule import cosine, learning_rate, usual_milestones
from lowerconv.train.settings import Settings

STEPS = 7  # updates in an epoch


def rates(**settings) -> list[float]:
    run = Settings("lenet", "d", epochs=12, lr=0.4, **settings)
    return [learning_rate(run, step, STEPS) for step in range(12 * STEPS)]


def pytorch(make, count: int, per_epoch: bool = False) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for step in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch or step % STEPS == STEPS - 1:
            scheduler.step()
    return found


def test_cosine_is_that_of_pytorch():
    expected = pytorch(lambda s, o: s.CosineAnnealingLR(o, 12 * STEPS), 12 * STEPS)
    assert rates() == pytest.approx(expected, rel=1e-9)


def test_poly_is_that_of_pytorch():
    expected = pytorch(lambda s, o: s.PolynomialLR(o, 12 * STEPS, 1.5), 12 * STEPS)
    assert rates(schedule="poly", power=1.5) == pytest.approx(expected, rel=1e-9)


def test_step_is_that_of_pytorch():
    expected = pytorch(lambda s, o: s.MultiStepLR(o, [3, 5], 0.3), 12 * STEPS, per_epoch=True)
    found = rates(schedule="step", milestones=(3, 5), gamma=0.3)
    assert found == pytest.approx(expected, rel=1e-9)


def test_constant_is_constant():
    assert set(rates(schedule="constant")) == {0.4}


def test_the_learning_rate_falls_from_its_start_to_zero():
    found = [cosine(0.4, step, 100) for step in range(101)]
    assert found[0] == 0.4
    assert found[50] == pytest.approx(0.2)
    assert found[100] == pytest.approx(0, abs=1e-12)
    assert sorted(found, reverse=True) == found


def test_usual_milestones():
    assert usual_milestones(90) == (30, 60, 80)
    assert usual_milestones(12) == (4, 8, 11)
    assert usual_milestones(2) == (1,)
    assert usual_milestones(1) == ()
    assert rates(schedule="step")[4 * STEPS] == pytest.approx(0.04)


@pytest.mark.parametrize("schedule", ["cosine", "poly", "constant"])
def test_a_schedule_begins_after_the_warmup(schedule):
    found = rates(schedule=schedule, warmup=2)
    warm = 2 * STEPS
    assert found[:warm] == pytest.approx([0.4 * (i + 1) / warm for i in range(warm)])
    whole = Settings("lenet", "d", epochs=10, lr=0.4, schedule=schedule)
    assert found[warm:] == [learning_rate(whole, step, STEPS) for step in range(10 * STEPS)]


def test_milestones_count_the_warmup():
    found = rates(schedule="step", milestones=(3,), warmup=2)
    assert found[3 * STEPS - 1] == 0.4
    assert found[3 * STEPS] == pytest.approx(0.04)


def test_part_of_an_epoch_is_a_warmup():
    assert rates(schedule="constant", warmup=0.5)[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_linear_scaling_counts_accumulated_samples():
    found = rates(schedule="constant", batch=64, accumulate=4, scale_lr_from=128)
    assert set(found) == {0.8}
    assert set(rates(schedule="constant", batch=32, scale_lr_from=128)) == {0.1}


def test_warmup_rises_from_the_rate_before_scaling():
    """Goyal et al.: from eta, by equal amounts, to k eta."""
    found = rates(schedule="constant", batch=256, scale_lr_from=64, warmup=1)
    assert found[:STEPS] == pytest.approx([0.4 + 1.2 * (i + 1) / STEPS for i in range(STEPS)])
    assert found[STEPS] == pytest.approx(1.6)
