"""Flows over shared links: against a slow simulation, and what must hold of any."""

import itertools

import numpy as np
import pytest

from lowerconv.predict.network.flows import simulate
from lowerconv.predict.network.graph import GraphBuilder
from lowerconv.predict.network.text import parse_topology
from lowerconv.predict.network.topology import Routes

from ...long import drawn
from .slow_flows import fair_rates, simulate_slowly

TOPOLOGIES = (
    "switch:6",
    "switch:9,oversubscription=3",
    "fat-tree:3x4,oversubscription=2",
    "torus:3x4",
    "torus:2x2x3",
    "dragonfly:3x2x2",
)


def random_graph(rng, flows: int):
    """Return random flows, on a topology or over random links of different bandwidths."""
    topology = parse_topology(
        str(rng.choice(TOPOLOGIES)) + ",bandwidth=100,latency=0.1,memory_bandwidth=200"
    )
    builder = GraphBuilder(topology, by_latency=bool(rng.random() < 0.3))
    nbytes = rng.choice([0, 100, 100, 300, 1000 * rng.random()], flows)
    seconds = rng.choice([0, 0, 1, 5 * rng.random()], flows)
    builder.send(*rng.integers(topology.hosts, size=(2, flows)), nbytes, seconds=seconds)
    for after in range(flows):
        for before in rng.integers(after, size=rng.integers(4)) if after else ():
            builder.wait(after, before)
    graph = builder.build()
    if rng.random() < 0.5:
        return graph
    links = int(rng.integers(1, 12))
    different = graph.routes.offsets.size - 1
    ways = [rng.permutation(links)[: rng.integers(1, min(links, 4) + 1)] for _ in range(different)]
    offsets = np.concatenate([[0], np.cumsum([len(way) for way in ways])])
    routes = Routes(offsets, np.concatenate(ways).astype(np.int32))
    return graph._replace(
        routes=routes,
        bandwidths=rng.choice([50.0, 100.0, 170.0], links),
        weights=rng.choice([1.0, 1.0, 0.3, 2.7], different),
    )


def test_as_a_slow_simulation(rng):
    for seed in drawn(rng, range(150), 40):
        print(f"seed {seed}")
        draw = np.random.default_rng(seed)
        graph = random_graph(draw, int(draw.integers(1, 40)))
        timeline = simulate(graph, resolution=0)
        begin, end = simulate_slowly(graph)
        np.testing.assert_allclose(timeline.begin, begin, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(timeline.end, end, rtol=1e-9, atol=1e-9)


def test_what_is_sent_arrives_and_no_link_carries_more_than_it_can(rng):
    for seed in drawn(rng, range(60), 20):
        print(f"seed {seed}")
        draw = np.random.default_rng(seed)
        check_what_is_sent(random_graph(draw, int(draw.integers(1, 120))))


def check_what_is_sent(graph):
    timeline = simulate(graph, resolution=0, with_rates=True)
    assert (np.diff(timeline.rates[:, 0]) >= 0).all(), "time goes back"
    assert (timeline.end >= timeline.begin).all()
    offsets, links = graph.routes
    moments = np.unique(np.concatenate([timeline.begin, timeline.end, timeline.rates[:, 0]]))
    rates = np.zeros(offsets.size - 1)
    sent = np.zeros(graph.seconds.size)
    changes = iter([*timeline.rates, (np.inf, 0, 0)])
    time, route, rate = next(changes)
    for now, then in itertools.pairwise(moments):
        while time <= now:
            rates[int(route)] = rate
            time, route, rate = next(changes)
        sending = np.flatnonzero((timeline.begin <= now) & (timeline.end > now))
        carried = np.zeros(graph.bandwidths.size)
        for flow in sending:
            number = graph.routes_of[flow]
            carried[links[offsets[number] : offsets[number + 1]]] += rates[number]
            sent[flow] += rates[number] * (then - now)
        assert (carried <= graph.bandwidths * (1 + 1e-9)).all()
        speeds = rates / graph.weights
        for flow in sending:  # each has a bottleneck: a full link on which none is faster
            mine = graph.routes_of[flow]
            way = links[offsets[mine] : offsets[mine + 1]]
            assert any(
                carried[link] >= graph.bandwidths[link] * (1 - 1e-8)
                and all(
                    speeds[number] <= speeds[mine] * (1 + 1e-8)
                    for number in graph.routes_of[sending]
                    if link in links[offsets[number] : offsets[number + 1]]
                )
                for link in way
            )
    np.testing.assert_allclose(sent, graph.nbytes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_flows_begin_after_those_that_they_wait_for(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 200)
    timeline = simulate(graph)
    before = np.repeat(np.arange(200), np.diff(graph.next_offsets))
    earliest = timeline.end[before] + graph.seconds[graph.next_flows]
    assert (timeline.begin[graph.next_flows] >= earliest - 1e-9).all()


def test_a_coarse_resolution_finds_rates_less_often():
    rng = np.random.default_rng(3)
    builder = GraphBuilder(parse_topology("torus:4x4,bandwidth=100,latency=0"))
    builder.send(*rng.integers(16, size=(2, 80)), 100 * (1 + rng.random(80)))
    exact, coarse = (
        simulate(builder.build(), resolution=part, with_rates=True) for part in (0, 0.02)
    )
    assert np.unique(coarse.rates[:, 0]).size < 0.7 * np.unique(exact.rates[:, 0]).size
    np.testing.assert_allclose(coarse.end, exact.end, rtol=0.02)


def test_filling_by_hand():
    # Link 0 is shared by three; one of them is held up by link 1, and link 2 has what is left.
    routes = [[0], [0, 1], [0, 2]]
    assert fair_rates(routes, [90, 10, 100], [1, 1, 1]) == pytest.approx([40, 10, 40])
    assert fair_rates(routes, [90, 10, 100], [3, 1, 1]) == pytest.approx([60, 10, 20])


def test_one_flow_takes_latency_and_bytes_over_bandwidth():
    builder = GraphBuilder(parse_topology("switch:2,bandwidth=1e9,latency=1e-3"))
    builder.send(np.array([0]), np.array([1]), np.array([5e8]))
    assert simulate(builder.build()).end[0] == pytest.approx(2e-3 + 0.5)


def test_numbers_that_cannot_be_simulated():
    builder = GraphBuilder(parse_topology("switch:2"))
    first = builder.send(np.array([0]), np.array([1]), np.array([1.0]))
    second = builder.compute(np.array([1.0]))
    builder.wait(second, first)
    graph = builder.build()
    with pytest.raises(ValueError, match=r"nbytes: got -1.0 of flow 0, expected numbers of at"):
        simulate(graph._replace(nbytes=np.array([-1.0, 0.0])))
    with pytest.raises(ValueError, match="seconds: got nan of flow 1"):
        simulate(graph._replace(seconds=np.array([0.0, np.nan])))
    with pytest.raises(ValueError, match="resolution: got 1, expected 0 or a part of 1"):
        simulate(graph, resolution=1)
    builder.wait(first, second)
    with pytest.raises(ValueError, match="graph: 2 flows never begin, flow 0 among them"):
        simulate(builder.build())


def test_nothing_takes_no_time():
    timeline = simulate(GraphBuilder(parse_topology("switch:2")).build())
    assert timeline.end.size == 0
