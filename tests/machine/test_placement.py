"""Workers laid over stored machines and parts of them: no test sees the real one."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowerconv.machine.placement import POLICIES, nodes_of, placement
from lowerconv.machine.topology import Cache, NumaNode, Package, Topology, read_topology

from .machines import MACHINES, core_of, part, topologies, unfold, whole


@pytest.mark.parametrize("name", MACHINES)
def test_a_part_is_what_would_be_read(tmp_path, name):
    """The property tests cut topologies up themselves, because reading takes long."""
    paths = unfold(tmp_path, name)
    cpus = paths["usable"][1::3]
    assert part(whole(name), cpus) == read_topology(paths["sysfs"], usable=cpus)


class TestWorkers:
    @pytest.mark.parametrize(
        ("name", "policy", "threads", "cpus"),
        [
            # One worker per core first, in order; then siblings, beside the first worker.
            ("core-i5-9600k", "compact", 3, "0 1 2"),
            ("ryzen-7-5800x", "compact", 8, "0 1 2 3 4 5 6 7"),
            ("ryzen-7-5800x", "spread", 10, "0 8 1 9 2 3 4 5 6 7"),
            ("kvm-offline", "compact", 4, "0 1 2 4"),
            # P-cores, E-cores, siblings of P-cores.
            ("core-i7-12700k", "compact", 9, "0 2 4 6 8 10 12 14 16"),
            ("core-i7-12700k", "spread", 9, "0 2 4 6 8 10 12 14 16"),
            ("core-i7-12700k", "compact", 13, "0 1 2 4 6 8 10 12 14 16 17 18 19"),
            ("rk3588", "compact", 6, "4 5 6 7 0 1"),
            ("rk3588", "spread", 3, "4 5 6"),
            # One node after the other, or as many of each.
            ("xeon-6130-x2", "compact", 5, "0 1 2 3 4"),
            ("xeon-6130-x2", "spread", 5, "0 1 2 16 17"),
            ("xeon-e5-2630v4-x2", "compact", 5, "0 2 4 6 8"),
            ("xeon-e5-2630v4-x2", "spread", 5, "0 2 4 1 3"),
            ("xeon-6248-x2-snc2", "compact", 12, "0 1 2 5 6 10 11 12 15 16 3 4"),
            ("xeon-6248-x2-snc2", "spread", 6, "0 1 3 20 21 23"),
            ("xeon-max-9462-x2", "spread", 4, "0 1 32 33"),
            # A socket each before a second node of a socket; an L3 each before a second core.
            ("epyc-7302-x2-nps4", "compact", 5, "0 1 2 3 4"),
            ("epyc-7302-x2-nps4", "spread", 2, "0 16"),
            ("epyc-7302-x2-nps4", "spread", 8, "0 4 8 12 16 20 24 28"),
            ("epyc-7302-x2-nps4", "spread", 10, "0 2 4 8 12 16 18 20 24 28"),
            ("epyc-7543p", "compact", 5, "0 1 2 3 4"),
            ("epyc-7543p", "spread", 5, "0 4 8 12 16"),
            ("epyc-7543p", "spread", 9, "0 1 4 8 12 16 20 24 28"),
            ("power9-ac922", "compact", 3, "0 4 8"),
            ("power9-ac922", "spread", 4, "0 8 80 88"),
            ("slurm-cpuset", "spread", 5, "16 48 17 18 19"),
            # More workers than CPUs.
            ("kvm-bare", "compact", 6, "0 0 1 1 2 3"),
            ("kvm-bare", "spread", 9, "0 0 0 1 1 2 2 3 3"),
        ],
    )
    def test_stored_machines(self, name, policy, threads, cpus):
        assert placement(whole(name), policy, threads) == tuple(map(int, cpus.split()))

    @pytest.mark.parametrize(
        ("name", "policy", "threads", "cpus"),
        [
            ("ryzen-7-5800x", "compact", 4, "0 8 1 9"),
            ("ryzen-7-5800x", "compact", 3, "0 8 1"),
            ("xeon-6130-x2", "spread", 6, "0 32 1 33 16 48"),
            ("epyc-7543p", "spread", 4, "0 32 4 36"),
            # No siblings: neighbours, of E-cores those that share L2.
            ("core-i5-9600k", "compact", 6, "0 1 2 3 4 5"),
            ("core-i7-12700k", "compact", 20, " ".join(map(str, range(20)))),
            ("rk3588", "spread", 6, "4 5 6 7 0 1"),
            ("kvm-bare", "compact", 4, "0 1 2 3"),
            # Four siblings are two pairs, the second of them when every core has one.
            ("power9-ac922", "compact", 4, "0 1 4 5"),
            (
                "power9-ac922",
                "spread",
                82,
                "0 1 2 3 " + " ".join(f"{c} {c + 1}" for c in range(4, 160, 4)),
            ),
            # A core that lost its sibling goes last.
            ("kvm-offline", "compact", 4, "0 1 2 4"),
        ],
    )
    def test_pairs(self, name, policy, threads, cpus):
        assert placement(whole(name), policy, threads, pairs=True) == tuple(map(int, cpus.split()))

    def test_a_cpu_without_partner_comes_last(self):
        cut = part(whole("core-i7-12700k"), (0, 2, 3, 17, 18))
        assert placement(cut, "compact", 4, pairs=True) == (2, 3, 17, 18)
        assert placement(cut, "compact", 5, pairs=True) == (2, 3, 17, 18, 0)
        assert placement(cut, "compact", 6, pairs=True) == (2, 3, 17, 18, 0, 0)

    def test_neighbours_share_the_nearest_cache(self):
        """L2 in pairs, numbered so that neighbours by number share none."""
        lists = [(0, 2), (1, 3)]
        found = Topology(
            packages=(Package(0, (0, 1, 2, 3)),),
            numa_nodes=(NumaNode(0, (0, 1, 2, 3)),),
            cores=((0,), (1,), (2,), (3,)),
            caches=tuple(Cache(2, "unified", 2**20, cpus) for cpus in lists),
        )
        assert placement(found, "compact", 4, pairs=True) == (0, 2, 1, 3)

    @pytest.mark.parametrize(
        ("capacities", "cpus"),
        [
            ((1024, 980, 1024, 930), (0, 1)),  # a few of one sort reach a higher frequency
            ((400, 980, 1024, 400), (1, 2)),
            ((400, 700, 1024, 400), (1, 2)),
            ((), (0, 1)),
        ],
    )
    def test_faster_sorts_of_cores_come_first(self, capacities, cpus):
        found = Topology(
            packages=(Package(0, (0, 1, 2, 3)),),
            numa_nodes=(NumaNode(0, (0, 1, 2, 3)),),
            cores=((0,), (1,), (2,), (3,)),
            caches=(),
            capacities=capacities,
        )
        assert sorted(placement(found, "compact", 2)) == [*cpus]

    def test_cpus_given(self):
        found = whole("ryzen-7-5800x")
        assert placement(found, (3, 11, 3, 0), 3) == (3, 11, 3)
        assert placement(found, [5], 1, pairs=True) == (5,)

    @pytest.mark.parametrize(
        ("policy", "threads", "message"),
        [
            ("dense", 1, r"policy: got 'dense', expected \"compact\", \"spread\" or a list"),
            ((0, 1), 3, "policy: got 2 CPUs, expected at least 3"),
            ((), 1, "policy: got 0 CPUs"),
            ((0, 6), 2, "policy: got CPU 6, expected usable ones: 0-5"),
            ("compact", 0, "threads: got 0"),
        ],
    )
    def test_mistakes(self, policy, threads, message):
        with pytest.raises(ValueError, match=message):
            placement(whole("core-i5-9600k"), policy, threads)

    @settings(deadline=None)
    @given(topologies(), st.sampled_from(POLICIES), st.integers(1, 200), st.booleans())
    def test_properties(self, topology, policy, threads, pairs):
        cpus = placement(topology, policy, threads, pairs)
        assert len(cpus) == threads
        assert cpus == placement(topology, policy, threads, pairs)
        uses = Counter(cpus)
        assert set(cpus) <= set(topology.cpus)
        if threads <= len(topology.cpus):
            assert max(uses.values()) == 1  # distinct while there are enough
        elif not pairs:
            assert len(uses) == len(topology.cpus)
            assert max(uses.values()) - min(uses.values()) <= 1

    @settings(deadline=None)
    @given(topologies(), st.sampled_from(POLICIES), st.integers(1, 200))
    def test_no_core_gets_two_workers_before_all_have_one(self, topology, policy, threads):
        busy = {core_of(topology)[cpu] for cpu in placement(topology, policy, threads)}
        assert len(busy) == min(threads, len(topology.cores))

    @settings(deadline=None)
    @given(topologies(), st.sampled_from(POLICIES), st.integers(1, 200))
    def test_workers_of_a_node_are_consecutive(self, topology, policy, threads):
        nodes = nodes_of(topology, placement(topology, policy, threads))
        assert list(nodes) == sorted(nodes, key=list(dict.fromkeys(nodes)).index)

    @settings(deadline=None)
    @given(topologies(), st.integers(1, 64))
    def test_spread_is_even_over_nodes(self, topology, threads):
        threads = min(threads, len(topology.cores))
        workers = Counter(nodes_of(topology, placement(topology, "spread", threads)))
        cores = Counter(nodes_of(topology, [core[0] for core in topology.cores]))
        not_full = [workers[node] for node in cores if workers[node] < cores[node]]
        assert max(workers.values()) - min(not_full, default=threads) <= 1

    @settings(deadline=None)
    @given(topologies(), st.integers(1, 100))
    def test_pairs_are_siblings_where_there_are_any(self, topology, pairs):
        cpus = placement(topology, "compact", 2 * pairs, pairs=True)
        cores = core_of(topology)
        for one, other in zip(cpus[::2], cpus[1::2], strict=True):
            if cores[one] != cores[other]:
                assert len(cores[one]) % 2 == len(cores[other]) % 2 == 1


class TestNodes:
    def test_indices_without_gaps(self):
        found = whole("power9-ac922")
        assert [node.number for node in found.numa_nodes] == [0, 8]
        assert nodes_of(found, (159, 0, 80, 79)) == (1, 0, 1, 0)

    def test_unknown_cpu(self):
        with pytest.raises(ValueError, match="cpus: got CPU 16, 99, expected usable ones: 0-15"):
            nodes_of(whole("ryzen-7-5800x"), (0, 99, 16))
