"""Where the gradients are cut into buckets, and when these leave."""

from itertools import pairwise

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.parallel.comm.buckets import SMALLEST, Buckets, bucket_ranges
from lowerconv.parallel.comm.collectives import library, ring
from lowerconv.parallel.comm.engine import Engine

SEED = 4


@pytest.mark.parametrize("largest", [1, 100, 4096, 1 << 20, 1 << 30])
@pytest.mark.parametrize("case", range(8))
def test_buckets_have_every_item_once(case, largest):
    rng = np.random.default_rng([SEED, case])
    print("seed", [SEED, case])
    bounds = np.cumsum([0, *rng.integers(1, 10 ** rng.integers(1, 6), rng.integers(1, 12))])
    if bounds[-1] * 4 / largest > 1e4:
        bounds = bounds[:2] % 1000
    ranges = bucket_ranges(bounds, 4, largest)
    assert sorted(ranges)[0][0] == 0
    assert [begin for begin, _ in ranges[:-1]] == [end for _, end in ranges[1:]]
    assert ranges[0][1] == bounds[-1]
    assert all(begin < end for begin, end in ranges)
    assert all((end - begin) * 4 <= max(4, 1.5 * largest) for begin, end in ranges)


def test_the_last_to_leave_is_small():
    bounds = np.arange(0, 10_000_000, 1000)
    sizes = [4 * (end - begin) for begin, end in bucket_ranges(bounds, 4, 4 << 20)]
    assert sizes[-1] <= SMALLEST
    assert max(sizes) <= 4 << 20
    assert sizes[-1] < sizes[-2] < sizes[-3]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 30, 3), nn.ReLU(), nn.Conv2d(30, 40, 3), nn.Flatten(), nn.Linear(40, 20)
    )


@pytest.mark.parametrize("late", [False, True])
def test_buckets_leave_while_others_are_computed_and_are_updated(late):
    rng = np.random.default_rng(SEED)
    net, twin = network(), network()
    twin.load({name: p.data for name, p in net.parameters().items()})
    optimizer, other = (nn.SGD(each, 0.1, 0.9) for each in (net, twin))
    engine = Engine()
    begun: list[tuple[str, int]] = []
    done: list[str] = []
    submit = engine.submit

    def noted(routine, name, nbytes=0, **options):
        begun.append((name, len(done)))
        return submit(routine, name, nbytes, **options)

    engine.submit = noted
    buckets = Buckets(net, optimizer, engine, lambda number, items: ring, 8192, deferred=late)

    def after(layer, frame, phase):
        if phase == "backward":
            done.append(frame.name)
        buckets.after(layer, frame, phase)

    net.register_watch(after)
    if late:
        net.register_gate(buckets.before)
    x, dy = rng.standard_normal((3, 2, 5, 5), np.float32), rng.standard_normal((3, 20), np.float32)
    for step in range(3):
        begun.clear()
        done.clear()
        results = []
        for each in (net, twin):
            results.append(each.run(x, nn.Step(training=True)).tobytes())
            if each is net:
                buckets.begin()
            each.backward(dy)
        assert results[0] == results[1]  # what is late is there before it is read
        before = optimizer.data.copy()
        if late:
            buckets.end()
            buckets.defer_update(0.1)
            assert (optimizer.data == before).all()
            if step == 2:
                buckets.flush_updates()
        else:
            buckets.update(buckets.end(), 0.1)
        other.step()
        assert [name for name, _ in begun] == [f"bucket {i}" for i in range(len(buckets.buckets))]
        layers = [count for _, count in begun]
        assert layers == sorted(layers)
        assert layers[0] < layers[-1]  # the first left long before backward was done
    assert optimizer.data.tobytes() == other.data.tobytes()


@pytest.mark.parametrize(("late", "allreduce"), [(True, ring), (False, ring), (True, library)])
def test_what_the_next_step_needs_first_overtakes(monkeypatch, late, allreduce):
    net, engine = network(), Engine()
    priorities = []

    def noted(routine, name, nbytes, *, priority):
        priorities.append(priority)

    monkeypatch.setattr(engine, "submit", noted)
    optimizer = nn.SGD(net, 0.1)
    buckets = Buckets(net, optimizer, engine, lambda number, items: allreduce, 8192, deferred=late)
    buckets.begin()
    buckets.end()
    assert len(priorities) > 3
    if late and allreduce is ring:
        assert priorities == sorted(set(priorities))
        assert priorities[0] > 0
    else:
        assert priorities == [None] * len(priorities)


@pytest.mark.parametrize("make", [nn.SGD, nn.Adam])
def test_an_update_in_ranges_is_the_update(make):
    rng = np.random.default_rng(SEED)
    networks = [nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3)) for _ in range(2)]
    networks[1].load({name: p.data for name, p in networks[0].parameters().items()})
    whole, parts = (make(network, 0.1, weight_decay=0.01) for network in networks)
    for _ in range(3):
        whole.grad[:] = parts.grad[:] = rng.standard_normal(whole.grad.size)
        whole.step()
        parts.begin_step()
        ends = [0, *sorted(rng.choice(whole.data.size, 4, replace=False)), whole.data.size]
        for begin, end in list(pairwise(ends))[::-1]:
            parts.update(int(begin), int(end))
        assert whole.data.tobytes() == parts.data.tobytes()
