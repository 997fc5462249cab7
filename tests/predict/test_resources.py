"""What is best of some runs, and what is said of it."""

import numpy as np
import pytest

from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import HOST, NETWORK
from lowerconv.predict.resources import (
    Target,
    advice,
    assumed_network,
    best,
    duration,
    explore,
)

from .made_up import MIB, calibration, link_seconds, step_seconds

DATA = ParallelOptions()


def made_up_plan(**options):
    known = calibration(
        [step_seconds(1, 0.1), step_seconds(100, 10.0)],
        [link_seconds(HOST, mib=0.01), link_seconds(NETWORK, mib=0.2)],
        images=36_000,
    )
    given = {"ranks": (1, 2, 4, 8, 16, 32), "batches": (64, 128)} | options
    return explore(known, DATA, **given)


def test_rows_are_those_of_all_ranks_and_batches():
    plan = made_up_plan()
    assert [(row.step.batch, row.step.ranks) for row in plan.rows] == [
        (batch, ranks) for batch in (64, 128) for ranks in (1, 2, 4, 8, 16, 32)
    ]
    assert [row.step.hosts for row in plan.rows[:6]] == [1, 1, 2, 4, 8, 16]
    assert plan.rows[0].efficiency == pytest.approx(1)
    assert all(0 < row.efficiency <= 1 + 1e-9 for row in plan.rows)
    for row in plan.rows:
        assert row.hours == pytest.approx(12 * 36_000 / row.step.images_per_second / 3600)
        assert row.node_hours == pytest.approx(row.hours * row.step.hosts)


def test_what_is_best_is_within_its_limits_and_no_other_is_better():
    plan = made_up_plan()
    rng = np.random.default_rng(seed := 5)
    print("seed", seed)
    hours = [row.hours for row in plan.rows]
    for _ in range(200):
        target = Target(
            *(float(rng.uniform(0.5 * min(hours), max(hours))) if rng.integers(2) else None,),
            *(float(rng.uniform(5, 200)) if rng.integers(2) else None,),
            *(int(rng.choice([32, 64, 128])) if rng.integers(2) else None,),
        )
        found = best(plan.rows, target)
        within = [row for row in plan.rows if row.within(target)]
        if not within:
            assert found is None
            continue
        assert found in within
        least = min(r.hours if target.hours is None else r.node_hours for r in within)
        taken = found.hours if target.hours is None else found.node_hours
        assert taken <= 1.03 * least + 1e-12


def test_sentences():
    lines = advice(made_up_plan(), Target())
    assert lines[0].startswith("best: ")
    assert "epochs" in lines[0]
    assert "node-hours" in lines[0]
    assert "compute" in lines[1]
    assert any(line.startswith("beyond ") for line in lines)
    impossible = advice(made_up_plan(), Target(hours=1e-6))
    assert impossible[0].startswith("nothing is within 1e-06 h")


def test_what_cannot_be_predicted_is_left_out():
    plan = explore(calibration(links=[link_seconds(HOST)]), DATA, (1, 2, 4, 16), (8,))
    assert [row.step.ranks for row in plan.rows] == [1, 2]
    assert "links.network: got none" in plan.left_out[0]
    assert plan.left_out[1] == "16 ranks, batch 8: not an image for each rank"


def test_memory_that_a_host_does_not_have():
    known = calibration()
    known.machine["memory"] = {"limit": 20 * MIB}
    plan = explore(known, DATA, (1, 2), (20,))
    assert [row.fits for row in plan.rows] == [False, False]  # 26, and 2 of 16 and more
    assert best(plan.rows, Target()) is None
    assert "rows marked !" in advice(plan, Target())[-1]


def test_links_that_are_described():
    link = assumed_network(8.0, 1e-5, None)
    assert link.cost("ring").byte == pytest.approx(1e-9)
    assert link.busy == 0
    host = link_seconds(HOST, mib=0.001).link()
    slower = assumed_network(8.0, 1e-5, host)
    assert slower.cost("ring").byte == pytest.approx(1e-9 + host.cost("ring").byte)
    assert 0 < slower.busy < 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.01234, "12.3 ms"),
        (1.234, "1.23 s"),
        (59, "59 s"),
        (61, "1 min"),
        (3599, "1 h 0 min"),
        (11_400, "3 h 10 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
