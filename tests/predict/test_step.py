"""Steps that are predicted, beside schedules that were computed by hand."""

import numpy as np
import pytest

from lowerconv.parallel.comm.buckets import SMALLEST, bucket_ranges
from lowerconv.parallel.comm.engine import NAP
from lowerconv.parallel.comm.waiting import EAGER, GROWTH, LONGEST, SHORTEST, pause_after
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import (
    HOST,
    NETWORK,
    LayerSeconds,
    ParameterFacts,
)
from lowerconv.predict.collective_costs import Cluster, Placement
from lowerconv.predict.lateness import slowest_of, spread_of, woken_late
from lowerconv.predict.stages import (
    BucketFacts,
    Stage,
    backward_stages,
    forward_stages,
    make_buckets,
    step_at,
)
from lowerconv.predict.step import predict_step

from .made_up import MIB, calibration, link_seconds, step_seconds


def predicted(known, ranks=2, per_host=1, batch=20, spare=True, **options):
    cluster = Cluster(Placement(ranks, per_host), known.links_by_kind(), spare)
    return predict_step(known, cluster, batch, ParallelOptions(**options))


def test_one_rank_sends_nothing():
    known = calibration([step_seconds(10, loss=0.5, update=0.25, input=0.125, rest=0.0625)])
    step = predicted(known, 1, batch=10)
    assert step.seconds == pytest.approx(6 + 0.9375)
    assert step.input == pytest.approx(0.125)
    assert (step.exposed, step.in_flight, step.hidden) == (0, 0, None)
    assert step.images_per_second == pytest.approx(10 / step.seconds)
    assert step.epoch_seconds == pytest.approx(100 * step.seconds)
    assert step.nbytes == 3 * 2 * MIB + 10 * MIB


# Two layers, a MiB of weights each, in buckets of one MiB: b's leaves at 4 of 6 s, a's at 6. A sum
# alone takes 3 s. Together: b's has 1 s left at 6, and both share the wire: 8 and 10.
SLOW_LINKS = [link_seconds(HOST, mib=3.0), link_seconds(NETWORK, mib=3.0)]
BUCKETS = {"bucket_mib": 1.0, "allreduce": "ring"}


def test_sums_that_all_are_waited_for():
    known = calibration(links=SLOW_LINKS)
    step = predicted(known, overlap="none", **BUCKETS)
    # Both leave at 6, and share the wire.
    assert step.seconds == pytest.approx(12)
    assert step.compute == pytest.approx(6)
    assert step.exposed == pytest.approx(6)
    assert step.hidden == pytest.approx(0)


def test_the_next_step_waits_for_each_sum_when_it_needs_it():
    """One bucket of both: it is gone for 6 s, and needed at once."""
    known = calibration(links=SLOW_LINKS)
    step = predicted(known, bucket_mib=2.0, allreduce="ring", overlap="layers")
    assert step.seconds == pytest.approx(12)
    # 0.75 s a MiB: the sum of a's gradients is there at 0.75 + what b's took of the wire.
    fast = calibration(links=[link_seconds(NETWORK, mib=0.5)])
    step = predicted(fast, overlap="thread", **BUCKETS)
    buckets = make_buckets(fast.parameters, 4, MIB, threaded=True)
    exposed = sum(b.nbytes for b in buckets if "a" in b.layers) / MIB * 0.5
    assert step.seconds == pytest.approx(6 + exposed)
    assert step.exposed == pytest.approx(exposed)
    assert step.hidden == pytest.approx(0.5 / (0.5 + exposed))


def test_updates_take_part():
    known = calibration([step_seconds(10, update=0.5)], [link_seconds(NETWORK, mib=0.001)])
    assert predicted(known, overlap="none").compute == pytest.approx(6.5)
    assert predicted(known, overlap="thread").compute == pytest.approx(6.5)


def test_the_crowd_slows_down_and_the_slowest_rank_is_waited_for():
    known = calibration([step_seconds(10, spread=0.1)], crowds=[(2, 1.5), (4, 2.0)])
    assert [known.slowdown(n) for n in (1, 2, 3, 4, 6)] == pytest.approx([1, 1.5, 1.75, 2, 2.5])
    step = predicted(known, 2, per_host=2)
    assert step.compute == pytest.approx(9)
    late = 0.1 * 9 * slowest_of(2)
    assert step.skew == pytest.approx(late + woken_late("ring", Placement(2, 2), late, True))
    assert slowest_of(2) == pytest.approx(0.564, abs=0.03)  # of normal numbers, 1 / sqrt(pi)
    assert slowest_of(16) == pytest.approx(1.766, abs=0.03)


def test_steps_that_are_held_up_count_for_what_they_cost():
    """The slower one of two ranks is late by half of the mean difference of two steps."""
    rng = np.random.default_rng(seed := 9)
    print("seed", seed)
    steps = 1 + 0.05 * rng.standard_normal(150)
    steps[rng.integers(150, size=5)] += 0.8
    pairs = np.maximum(steps[:, None], steps)[~np.eye(150, dtype=bool)]
    late = pairs.mean() - steps.mean()
    assert spread_of(steps) == pytest.approx(late / steps.mean() / slowest_of(2))
    normal = spread_of(1 + 0.05 * rng.standard_normal(100_000))
    assert normal == pytest.approx(0.05, rel=0.06)  # Blom's formula is an approximation
    assert spread_of(np.ones(5)) == spread_of(np.ones(1)) == 0


def test_the_spread_of_ranks_that_compute_at_once():
    known = calibration([step_seconds(10, spread=0.1)], crowds=[(2, 1.5, 0.2), (4, 2.0, 0.05)])
    assert [known.spread(n, 0.1) for n in (1, 2, 3, 4, 9)] == [0.1, 0.2, 0.2, 0.1, 0.1]
    for per_host, late in ((2, 0.2 * 9 * slowest_of(2)), (1, 0.1 * 6 * slowest_of(2))):
        woken = woken_late("ring", Placement(2, per_host), late, True)
        assert predicted(known, 2, per_host=per_host).skew == pytest.approx(late + woken)


def test_those_who_wait_for_long_look_now_and_then():
    at = Placement(2, 2)
    assert woken_late("ring", at, EAGER / 4, False) == 0  # the other one has waited twice as long
    pauses, slept = [SHORTEST], 0.0
    for _ in range(12):
        slept += pauses[-1]
        pauses.append(GROWTH * pauses[-1])
    assert pause_after(EAGER + slept) == pytest.approx(pauses[-1])
    late = woken_late("ring", at, (EAGER + slept) / 2, False)
    assert late == pytest.approx(1.5 * pauses[-1])  # two messages
    assert woken_late("ring", at, 60.0, False) == pytest.approx(1.5 * LONGEST)
    assert woken_late("ring", at, 60.0, True) == pytest.approx(1.5 * NAP)
    assert woken_late("ring", Placement(4, 4), 60.0, False) == pytest.approx(5.5 * LONGEST)


def test_batches_made_ahead_cost_nothing_until_they_are_late():
    for seconds, waits in ((5.0, 0.0), (8.0, 2.0)):
        step = predicted(calibration([step_seconds(10, input=seconds)], workers=1), 1, batch=10)
        assert step.input == pytest.approx(waits)
        assert step.seconds == pytest.approx(6 + waits)
    made = predicted(calibration([step_seconds(10, input=8.0)], workers=0), 1, batch=10)
    assert made.seconds == pytest.approx(14)


def test_buckets_are_those_of_the_strategy():
    """Their ranges are; here the layers that write to each are compared with all items."""
    rng = np.random.default_rng(seed := 20)
    print("seed", seed)
    for _ in range(200):
        items = rng.integers(1, 5000, size=rng.integers(1, 12)).tolist()
        parameters = [ParameterFacts(f"l{i // 2}", n) for i, n in enumerate(items)]
        largest, threaded = int(rng.integers(4, 40000)), bool(rng.integers(2))
        bounds = np.cumsum([0, *items])
        ranges = bucket_ranges(bounds, 4, largest, SMALLEST if threaded else largest)
        owner = [p.layer for p in parameters for _ in range(p.items)]
        buckets = make_buckets(parameters, 4, largest, threaded)
        assert [b.layers for b in buckets] == [frozenset(owner[i:j]) for i, j in ranges]
        assert [b.nbytes for b in buckets] == [4 * (j - i) for i, j in ranges]
        assert sum(b.part for b in buckets) == pytest.approx(1)


def test_stages():
    layers = [LayerSeconds(name, 1.0) for name in "abcd"]
    buckets = [BucketFacts(0, 4, 0.5, frozenset("cd")), BucketFacts(1, 4, 0.5, frozenset("bc"))]
    assert forward_stages(layers, buckets, every=False) == [
        Stage(1.0),
        Stage(1.0, (1,)),
        Stage(2.0, (0,)),
    ]
    assert len(forward_stages(layers, buckets, every=True)) == 4
    back = layers[::-1]
    assert backward_stages(back, buckets, every=False, overlap=True) == [
        Stage(2.0, (0,)),
        Stage(1.0, (1,)),
        Stage(1.0),
    ]
    assert backward_stages(back, buckets, every=False, overlap=False) == [Stage(4.0, (0, 1))]
    # Complete first, but not the first to leave.
    swapped = [BucketFacts(0, 4, 0.5, frozenset("a")), BucketFacts(1, 4, 0.5, frozenset("d"))]
    assert backward_stages(back, swapped, every=False, overlap=True) == [Stage(4.0, (0, 1))]


@pytest.mark.parametrize(
    ("images", "second"), [(10, 1.0), (15, 1.5), (20, 2.0), (40, 4.0), (5, 0.5), (1, 0.1)]
)
def test_times_between_those_that_were_measured(images, second):
    step = step_at(calibration(), images)
    assert [layer.seconds for layer in step.forward] == pytest.approx([second] * 2)
    assert step.arena == images * MIB


def test_times_that_hardly_grow_stay_above_nothing():
    known = calibration([step_seconds(10, 1.0), step_seconds(20, 1.1)])
    assert step_at(known, 1).forward[0].seconds == pytest.approx(0.91)
    assert step_at(known, 40).forward[0].seconds == pytest.approx(1.3)
    steep = calibration([step_seconds(10, 1.0), step_seconds(20, 4.0)])
    assert step_at(steep, 1).forward[0].seconds == pytest.approx(0.1)  # in proportion, not below
    assert step_at(steep, 40).forward[0].seconds == pytest.approx(8.0)


def test_late_sums():
    """Sums that are there before the next but one step, and sums that take two steps."""
    known = calibration(links=[link_seconds(NETWORK, mib=1.0)])
    step = predicted(known, strategy="async", staleness=4, bucket_mib=2.0, allreduce="ring")
    assert step.exposed == pytest.approx(0, abs=1e-9)
    assert step.staleness == {1: 1.0}
    slow = calibration(links=[link_seconds(NETWORK, mib=6.0)])  # a sum takes two steps
    bound = predicted(slow, strategy="async", staleness=1, bucket_mib=2.0, allreduce="ring")
    assert bound.staleness == {1: 1.0}
    assert bound.seconds == pytest.approx(12)  # the wire is busy all the time
    in_step = predicted(slow, strategy="async", staleness=0, bucket_mib=2.0, allreduce="ring")
    assert in_step.seconds == pytest.approx(16)  # b's leaves at 4, and the wire is busy from then
    assert in_step.staleness == {}


def test_chance_spreads_staleness_and_the_same_seed_repeats_it():
    steps = [step_seconds(10, spread=0.3)]
    known = calibration(steps, [link_seconds(NETWORK, mib=1.9)])
    options = {"strategy": "async", "staleness": 3, "bucket_mib": 2.0}
    step = predicted(known, 4, batch=40, **options)
    assert len(step.staleness) > 1
    assert sum(step.staleness.values()) == pytest.approx(1)
    assert 0 < step.staleness_mean <= 3
    assert predicted(known, 4, batch=40, **options) == step


def test_what_is_not_predicted_is_told():
    known = calibration()
    with pytest.raises(ValueError, match=r"^wire: got 'bf16'"):
        predicted(known, wire="bf16")
    with pytest.raises(ValueError, match=r"^parallel: got 'spatial'"):
        predicted(known, 2, strategy="spatial")
    with pytest.raises(ValueError, match=r"^batch: got 3 with 4 ranks"):
        predicted(known, 4, batch=3)
    alone = calibration(links=[link_seconds(HOST)])
    assert predicted(alone, 2, per_host=2).seconds > 0
    with pytest.raises(ValueError, match=r"^links.network: got none with 2 ranks"):
        predicted(alone, 2, per_host=1)


def test_tree_is_slower_than_what_is_chosen():
    known = calibration(links=[link_seconds(NETWORK, second=0.01, mib=1.0)])
    chosen, tree = (predicted(known, 8, batch=80, strategy=s) for s in ("data", "tree"))
    assert tree.algorithms == ("tree",)
    assert tree.seconds > chosen.seconds
