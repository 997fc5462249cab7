"""Pairs of threads over a ring of panels: turns, handing over, and results whoever is slow."""

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from numba import njit

import lowerconv as lc
from lowerconv.conv.blas.stages import (
    BOTH,
    FIRST,
    SECOND,
    alone,
    enter,
    in_pairs,
    leave,
    start_over,
    turns,
)
from lowerconv.runtime.launch import run_on_team
from lowerconv.runtime.threads import parallel_region

from .cases import PASSES, Case, by_pass, data_of, make_plan, operands_of, run

pytestmark = pytest.mark.usefixtures("watchdog")

THREADS = (1, 2, 3, 4, 5, 8)
PATIENCE = 200  # seconds: a process that takes so long hangs

# Of many steps, and of fewer than there are pairs; several blocks of taps, groups, splits.
CASES = [
    Case("pairs-many-steps", (5, 24, 24, 24), (32, 24, 3, 3), padding=1),
    Case("pairs-few-steps", (1, 3, 9, 9), (5, 3, 3, 3)),
    Case("pairs-single-step", (1, 2, 3, 3), (2, 2, 3, 3)),
    Case("pairs-groups", (3, 24, 17, 13), (36, 8, 5, 3), 2, ((1, 2), (0, 1)), 1, 3),
    Case("pairs-many-taps", (2, 160, 7, 7), (64, 160, 3, 3), padding=1),
]
by_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


@by_case
@by_pass
def test_results_are_the_same_bits_for_any_number_of_threads(op, case):
    x, w, _, dy = data_of(case, "float32")
    operands = operands_of(op, x, w, dy)
    lc.set_num_threads(1)
    expected = run(op, case, operands, algorithm="pipelined")  # one thread for both stages
    for threads in THREADS:
        lc.set_num_threads(threads)
        plan = make_plan(op, case, algorithm="paired")
        for _ in range(3):
            out = np.full_like(expected, np.nan)
            assert np.array_equal(plan(*operands, out=out), expected), threads


ONE_CPU = """
import os, sys
import numpy as np
os.environ["LOWERCONV_AFFINITY"] = "none"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before there are other threads
import lowerconv as lc
from lowerconv.runtime import team
rng = np.random.default_rng(0)
x, w, dy = (rng.standard_normal(shape, "f4")
            for shape in ((4, 32, 20, 20), (40, 32, 3, 3), (4, 40, 18, 18)))
def passes(algorithm):
    return [lc.conv2d(x, w, algorithm=algorithm),
            lc.conv2d_input_grad(dy, w, x.shape, algorithm=algorithm),
            lc.conv2d_weight_grad(dy, x, w.shape, algorithm=algorithm)]
expected = passes("pipelined")
for threads in (2, 3, 4, 8):
    lc.set_num_threads(threads)
    for _ in range(3):
        assert all(map(np.array_equal, passes("paired"), expected)), threads
masks = {tuple(os.sched_getaffinity(thread.native_id)) for thread in team.team().started}
assert len(masks) == 1 and len(masks.pop()) == 1
print("right")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="nothing can be bound")
def test_pairs_that_compete_for_one_cpu_end():
    done = subprocess.run(
        [sys.executable, "-c", ONE_CPU], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout.strip() == "right", done.stderr


# What a worker does in its turns


@pytest.mark.parametrize("slots", [2, 3, 4])
@pytest.mark.parametrize("steps", range(13))
def test_one_core_fills_a_slot_before_it_empties_it(steps, slots):
    roles = alone(3, slots)
    for worker in range(3):
        filled, emptied = 0, 0
        holds = [None] * slots
        assert turns(roles, worker, steps) == 2 * steps
        for turn in range(2 * steps):
            stage, step, slot = enter(roles, worker, steps, turn)
            assert slot == step % slots
            if stage == FIRST:
                assert step == filled
                assert holds[slot] is None  # what was there has been used
                holds[slot] = step
                filled += 1
                assert filled - emptied <= min(2, slots)  # one step ahead, and no more
            else:
                assert stage == SECOND
                assert step == emptied
                assert holds[slot] == step
                holds[slot] = None
                emptied += 1
            leave(roles, worker, stage)
        assert filled == emptied == steps


@pytest.mark.parametrize("workers", range(1, 10))
def test_workers_are_pairs_and_of_an_odd_number_the_last_does_both(workers):
    roles = in_pairs(workers, 4)
    assert roles.cores.tolist() == [worker // 2 for worker in range(workers)]
    expected = [FIRST, SECOND] * (workers // 2) + [BOTH] * (workers % 2)
    assert roles.stages.tolist() == expected
    for worker, stage in enumerate(expected):
        assert turns(roles, worker, 7) == (14 if stage == BOTH else 7)


# Pairs of which one is slow


@njit
def _burn(turns, state):
    for _ in range(turns):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return state


@njit
def _fill_and_empty(worker, workers, roles, steps, delays, ring, wrong, done):
    """Fill a slot with the number of its step, in two parts; find it there, in two parts."""
    core = roles.cores[worker]
    half = ring.shape[2] // 2
    state = np.uint64(worker + 1)
    for turn in range(turns(roles, worker, steps)):
        stage, step, slot = enter(roles, worker, steps, turn)
        panel, number = ring[core, slot], 1 + core * steps + step
        state = _burn(delays[stage, core, step], state)
        if stage == FIRST:
            wrong[worker] += np.sum(panel != 0)  # nobody has emptied it
            panel[:half] = number
            state = _burn(delays[stage, core, step] // 2, state)
            panel[half:] = number
        else:
            wrong[worker] += np.sum(panel[half:] != number)
            state = _burn(delays[stage, core, step] // 2, state)
            wrong[worker] += np.sum(panel[:half] != number)
            panel[:] = 0
            done[core, step] += state != 0
        leave(roles, worker, stage)


@njit(nogil=True)
def _all_of_it(team, roles, steps, delays, ring, wrong, done):
    run_on_team(team, _fill_and_empty, (roles, steps, delays, ring, wrong, done))


LONG = 300_000  # turns that take longer than threads stay awake: they sleep and have to be woken


def delays_of(who, rng, pairs, steps):
    delays = rng.integers(0, 200, (2, pairs, steps))
    if who in ("first", "both"):
        delays[FIRST] += rng.choice([0, 0, LONG], (pairs, steps))
    if who in ("second", "both"):
        delays[SECOND] += rng.choice([0, 0, LONG], (pairs, steps))
    return delays


@pytest.mark.parametrize("who", ["nobody", "first", "second", "both"])
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("slots", [2, 4])
def test_no_slot_in_use_is_overwritten_whoever_is_slow(workers, slots, who):
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    steps, pairs = (400 if who == "nobody" else 40), -(-workers // 2)
    roles = in_pairs(workers, slots)
    for _ in range(3):
        start_over(roles)
        ring, wrong = np.zeros((pairs, slots, 64), np.int64), np.zeros(workers, np.int64)
        done = np.zeros((pairs, steps), np.int64)
        delays = delays_of(who, rng, pairs, steps)
        with parallel_region(workers, pairs=True) as team:
            _all_of_it(team, roles, steps, delays, ring, wrong, done)
        assert not wrong.any()
        assert (done == 1).all()
        assert not ring.any()


# Logs


def steps_of(plan):
    """Return for each pair how many steps it does."""
    pipeline, problem = plan.executable, plan.problem
    blocks, pairs = pipeline.blocks, pipeline.shapes[0][0]
    if plan.op == "forward":
        per_task = -(-problem.gemm_shape("forward")[2] // blocks.KC)
    else:
        images = blocks.MC if plan.op == "input_grad" else problem.N
        pixels = problem.P * problem.Q
        tiles = images * -(-pixels // blocks.NC)
        if pixels <= blocks.NC:
            tiles = -(-images * pixels // blocks.NC)
        per_task = tiles if plan.op == "input_grad" else -(-tiles // blocks.splits)
    tasks = [blocks.tasks * i // pairs for i in range(pairs + 1)]
    return [(end - begin) * per_task for begin, end in pairwise(tasks)]


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("op", PASSES)
def test_logs_have_every_stage_once(op, threads):
    case = CASES[0]
    x, w, _, dy = data_of(case, "float32")
    lc.set_num_threads(threads)
    plan = make_plan(op, case, algorithm="paired")
    lines = 2 * max(steps_of(plan)) + 2
    roles = plan.executable.roles
    roles = roles._replace(logs=np.zeros((len(roles.stages), lines, 3), np.int64))
    plan.executable.roles = roles
    plan(*operands_of(op, x, w, dy))
    found = {}
    for worker, log in enumerate(roles.logs):
        count = log[0, 0]
        stages, begins, ends = log[1 : count + 1].T
        assert (begins > 0).all()
        assert (begins <= ends).all()
        assert (ends[:-1] <= begins[1:]).all()
        if roles.stages[worker] != BOTH:
            assert (stages == roles.stages[worker]).all()
        for stage in (FIRST, SECOND):
            pair = int(roles.cores[worker])
            found[pair, stage] = found.get((pair, stage), 0) + int((stages == stage).sum())
        assert not log[count + 1 :].any()
    for pair, steps in enumerate(steps_of(plan)):
        assert found[pair, FIRST] == found[pair, SECOND] == steps > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_full_log_keeps_its_last_line_and_changes_no_result(threads):
    case = CASES[0]
    x, w, _, _ = data_of(case, "float32")
    lc.set_num_threads(threads)
    plan = make_plan("forward", case, algorithm="paired")
    expected = plan(x, w)
    roles = plan.executable.roles
    plan.executable.roles = roles._replace(logs=np.zeros((len(roles.stages), 4, 3), np.int64))
    assert np.array_equal(plan(x, w), expected)
    assert plan.executable.roles.logs[:, 0, 0].tolist() == [3] * len(roles.stages)
