"""Topologies: routes lead from host to host, by existing links, and none is longer than need be."""

import pickle
import re
from collections import deque
from itertools import product

import numpy as np
import pytest

from lowerconv.predict.network.dragonfly import Dragonfly
from lowerconv.predict.network.fat_tree import FatTree
from lowerconv.predict.network.switch import Switch
from lowerconv.predict.network.text import parse_topology
from lowerconv.predict.network.torus import Torus

SMALL = (
    "switch:7",
    "switch:7,oversubscription=2.5",
    "fat-tree:5",
    "fat-tree:4x3",
    "fat-tree:3x2x4,oversubscription=2",
    "fat-tree:2x3x4",
    "torus:5",
    "torus:2x3",
    "torus:4x3x5",
    "torus:2x2x3x2x3x2",
    "dragonfly:9x4x2",
    "dragonfly:4x5x3",
    "dragonfly:3x1x2",
    "dragonfly:1x4x2",
)


def ends(topology, link):
    """Return the two vertices that a link connects, as its name says."""
    name = topology.link_name(link)
    numbers = list(map(int, re.findall(r"\d+", name)))
    kind = re.sub(r"\d+", "#", name)
    if kind.startswith("memory"):
        return ("host", numbers[0]), ("host", numbers[0])
    if kind.startswith("host # dimension #"):
        host, dimension = numbers
        position = list(np.unravel_index(host, topology.shape))
        position[dimension] += 1 if name.endswith("up") else -1
        position[dimension] %= topology.shape[dimension]
        return ("host", host), ("host", int(np.ravel_multi_index(position, topology.shape)))
    if kind.startswith("level"):
        level, subtree, switch, port = numbers
        below = ("host", subtree) if level == 0 else ("switch", level, subtree, switch)
        above = ("switch", level + 1, subtree // topology.children[level])
        above += (switch * topology.parents[level] + port,)
        return (below, above) if name.endswith("up") else (above, below)
    if kind.startswith("group # router"):
        group, one, other = numbers
        return ("router", group, one), ("router", group, other)
    if kind.startswith("group"):
        routers, groups = topology.shape[1], topology.shape[0]
        here, there = numbers
        return tuple(
            ("router", a, (b - a - 1) % groups % routers) for a, b in ((here, there), (there, here))
        )
    if kind == "switch":
        return ("in",), ("out",)
    host, router = ("host", numbers[0]), None
    if "dragonfly" in type(topology).__name__.lower():
        router = ("router", *divmod(numbers[0] // topology.shape[2], topology.shape[1]))
    elif topology.oversubscription > 1:
        router = ("in",) if name.endswith("up") else ("out",)
    else:
        router = ("switch",)
    return (host, router) if name.endswith("up") else (router, host)


@pytest.mark.parametrize("text", SMALL)
def test_routes_are_paths_and_the_shortest(text):
    topology = parse_topology(text)
    edges = [ends(topology, link) for link in range(topology.links)]
    leaving = {}
    for begin, end in edges:
        leaving.setdefault(begin, []).append(end)
    hosts = np.arange(topology.hosts)
    sources, targets = np.repeat(hosts, hosts.size), np.tile(hosts, hosts.size)
    routes = topology.routes(sources, targets)
    assert routes.links.dtype == np.int32
    for source in hosts:
        away = {("host", source): 0}
        queue = deque(away)
        while queue:
            here = queue.popleft()
            for there in leaving.get(here, ()):
                if there not in away:
                    away[there] = away[here] + 1
                    queue.append(there)
        for target in hosts:
            pair = source * hosts.size + target
            links = routes.links[routes.offsets[pair] : routes.offsets[pair + 1]]
            here = ("host", source)
            for link in links:
                assert edges[link][0] == here, (source, target, topology.link_name(link))
                here = edges[link][1]
            assert here == ("host", target)
            if isinstance(topology, Dragonfly):  # two links between groups may be a shorter way
                between = [edges[link][0][1] != edges[link][1][1] for link in links[1:-1]]
                assert sum(between) <= 1 and len(links) <= 5
            else:
                assert len(links) == max(1, away[here])
            assert links.tolist() == topology.route(int(source), int(target))


@pytest.mark.parametrize("text", SMALL)
def test_links_have_names_bandwidths_and_latencies(text):
    topology = parse_topology(f"{text},bandwidth=3e9,latency=2e-6,memory_bandwidth=8e9")
    names = [topology.link_name(link) for link in range(topology.links)]
    assert len(set(names)) == topology.links == topology.bandwidths.size == topology.latencies.size
    for name, bandwidth, latency in zip(
        names, topology.bandwidths, topology.latencies, strict=True
    ):
        if name.startswith("memory"):
            assert (bandwidth, latency) == (8e9, 5e-7)
        elif name == "switch":
            assert (bandwidth, latency) == (7 * 3e9 / 2.5, 0)
        else:
            assert (bandwidth, latency) == (3e9, 2e-6)


def test_a_fat_tree_without_oversubscription_carries_shifts_at_full_rate():
    topology = FatTree((6, 4, 4))
    hosts = np.arange(topology.hosts)
    for distance in (1, 3, 4, 16, 48):
        routes = topology.routes(hosts, (hosts + distance) % topology.hosts)
        assert np.bincount(routes.links).max() == 1, distance


def test_messages_take_the_last_dimension_first_and_the_shorter_way():
    topology = Torus((4, 5))
    names = [topology.link_name(link) for link in topology.route(0, 2 * 5 + 4)]
    assert names == ["host 0 dimension 1 down", "host 4 dimension 0 up", "host 9 dimension 0 up"]


def test_many_pairs_are_found_in_parts():
    topology = Torus((30, 30, 40))
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(topology.hosts, size=(2, 70_001))
    routes = topology.routes(sources, targets)
    for pair in (0, 32_767, 32_768, 70_000):
        links = routes.links[routes.offsets[pair] : routes.offsets[pair + 1]]
        assert links.tolist() == topology.route(sources[pair], targets[pair])


def test_copies_are_equal():
    for text in SMALL:
        topology = parse_topology(text)
        assert topology.bandwidths.size
        copy = pickle.loads(pickle.dumps(topology))
        assert copy == topology and copy.route(0, 1) == topology.route(0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("switch", "topology: got 'switch', expected KIND:EXTENTS"),
        ("ring:4", "topology: got the kind 'ring' in 'ring:4', expected one of switch, fat-tree"),
        ("torus:4xx4", "topology: got the extents '4xx4' in 'torus:4xx4', expected integers"),
        ("torus:", "topology: got the extents '' in 'torus:', expected integers"),
        ("torus:4x0", r"topology: 'torus:4x0': shape: got \(4, 0\), expected extents"),
        ("switch:4x4", r"shape: got \(4, 4\), expected a number of hosts"),
        ("dragonfly:4x4", r"shape: got \(4, 4\), expected groups, routers and hosts"),
        ("torus:4,speed=3", "got 'speed=3', expected NAME=VALUE of bandwidth, latency"),
        ("torus:4,bandwidth", "got 'bandwidth', expected NAME=VALUE of"),
        ("torus:4,bandwidth=fast", "bandwidth: got 'fast', expected a number"),
        ("torus:4,bandwidth=0", "bandwidth: got 0, expected bytes/s above 0"),
        ("torus:4,bandwidth=inf", "bandwidth: got inf, expected bytes/s above 0"),
        ("torus:4,latency=-1", "latency: got -1, expected seconds, at least 0"),
        ("torus:4,latency=1,latency=2", "latency: given twice, expected once"),
        ("switch:4,oversubscription=0.5", "oversubscription: got 0.5, expected a ratio"),
        ("fat-tree:4x4,oversubscription=3", "oversubscription: got 3, expected an integer that"),
    ],
)
def test_texts_that_describe_none(text, message):
    with pytest.raises(ValueError, match=message):
        parse_topology(text)


def test_hosts_and_links_that_are_not_there():
    topology = Switch((4,))
    with pytest.raises(ValueError, match="targets: got host 4, expected 0 to 3"):
        topology.routes(np.array([0]), np.array([4]))
    with pytest.raises(ValueError, match="link: got 12, expected one of 0 to 11"):
        topology.link_name(12)
    with pytest.raises(TypeError, match="bandwidth: got '1', expected a number of bytes/s"):
        Switch((4,), bandwidth="1")
    assert all(topology.route(a, b) for a, b in product(range(4), repeat=2))
