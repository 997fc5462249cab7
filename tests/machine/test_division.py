"""Ranks that share stored machines and parts of them: no test sees the real one."""

from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lowerconv.machine.placement import divide, nodes_of, without_spare
from lowerconv.machine.topology import format_cpu_list, parse_cpu_list, read_topology

from ..long import LONG
from .machines import core_of, machine, topologies, whole, write_sysfs


def lists(shares):
    return [format_cpu_list(share) for share in shares]


def all_shares(masks, topology):
    return [divide(masks, rank, topology) for rank in range(len(masks))]


class TestRanks:
    @pytest.mark.parametrize(
        ("name", "ranks", "shares"),
        [
            ("core-i5-9600k", 2, "0-2 3-5"),
            ("core-i5-9600k", 4, "0-1 2-3 4 5"),
            ("ryzen-7-5800x", 3, "0-2,8-10 3-5,11-13 6-7,14-15"),
            ("xeon-6130-x2", 2, "0-15,32-47 16-31,48-63"),
            ("xeon-6130-x2", 4, "0-7,32-39 8-15,40-47 16-23,48-55 24-31,56-63"),
            (
                "xeon-6248-x2-snc2",
                4,
                "0-2,5-6,10-12,15-16,40-42,45-46,50-52,55-56 "
                "3-4,7-9,13-14,17-19,43-44,47-49,53-54,57-59 "
                "20-22,25-26,30-32,35-36,60-62,65-66,70-72,75-76 "
                "23-24,27-29,33-34,37-39,63-64,67-69,73-74,77-79",
            ),
            ("power9-ac922", 2, "0-79 80-159"),
            ("slurm-cpuset", 2, "16-17,48-49 18-19,50-51"),
            # Every rank gets fast and slow cores, for they wait for each other.
            ("core-i7-12700k", 2, "0-7,16-17 8-15,18-19"),
            ("core-i7-12700k", 3, "0-5,16 6-11,17 12-15,18-19"),
            ("rk3588", 2, "0-1,4-5 2-3,6-7"),
            # More ranks than cores; than CPUs.
            ("kvm-offline", 4, "0 1 2 4"),
            ("kvm-offline", 6, "0 1 2 4 0 1"),
            ("kvm-bare", 9, "0 1 2 3 0 1 2 3 0"),
        ],
    )
    def test_ranks_that_share_all_cpus(self, name, ranks, shares):
        topology = whole(name)
        assert lists(all_shares([topology.cpus] * ranks, topology)) == shares.split()

    @pytest.mark.parametrize(
        ("usable", "ranks", "shares"),
        [
            # Two nodes of four cores: numbers differ by one at most, and few ranks cross.
            ("0-7", 2, "0-3 4-7"),
            ("0-7", 3, "0-2 3-5 6-7"),
            ("0-7", 4, "0-1 2-3 4-5 6-7"),
            ("0-7", 5, "0-1 2-3 4-5 6 7"),
            # A node lost cores: the larger shares go where nobody crosses for them.
            ("2-7", 2, "2-4 5-7"),
            ("3-7", 2, "3-5 6-7"),
            ("2-6", 2, "2-3 4-6"),
            ("0-6", 3, "0-1 2-3 4-6"),
        ],
    )
    def test_two_nodes(self, tmp_path, usable, ranks, shares):
        sysfs = write_sysfs(tmp_path, machine(packages=2, cores=4))
        topology = read_topology(sysfs, usable=parse_cpu_list(usable))
        assert lists(all_shares([topology.cpus] * ranks, topology)) == shares.split()

    def test_cores_are_split_only_for_ranks_that_get_none(self, tmp_path):
        topology = read_topology(write_sysfs(tmp_path, machine(cores=4, smt=2)), usable=range(8))
        masks = [(0, 4)] * 2 + [(1, 2, 3, 5, 6, 7)] * 2
        assert all_shares(masks, topology) == [(0,), (4,), (1, 2, 5, 6), (3, 7)]

    def test_bound_ranks_keep_what_they_have(self):
        topology = whole("xeon-6130-x2")
        masks = [(0, 32), (16, 17), (5,), (1, 2, 3)]
        assert all_shares(masks, topology) == masks

    def test_masks_that_overlap_in_part(self):
        topology = whole("core-i5-9600k")
        assert all_shares([(0, 1, 2, 3), (2, 3, 4, 5)], topology) == [(0, 1, 2), (3, 4, 5)]
        assert all_shares([range(6), (5,)], topology) == [(0, 1, 2, 3, 4), (5,)]
        assert all_shares([range(6), (0, 1)], topology) == [(2, 3, 4, 5), (0, 1)]

    def test_cpus_that_are_switched_off_are_left_out(self):
        assert divide([range(8), range(8)], 1, whole("kvm-offline")) == (4,)

    def test_cpus_of_nobody_stay_free(self):
        assert all_shares([(0, 1), (0, 1)], whole("core-i5-9600k")) == [(0,), (1,)]

    @pytest.mark.parametrize(
        ("masks", "rank", "message"),
        [
            ([(0,), (1,)], 2, "rank: got 2, expected less than 2, the number of masks"),
            ([(0,)], -1, "rank: got -1"),
            ([], 0, "rank: got 0, expected less than 0"),
            ([(0,), (9,)], 0, "masks: got no usable CPU for rank 1, expected at least one of 0-5"),
        ],
    )
    def test_mistakes(self, masks, rank, message):
        with pytest.raises(ValueError, match=message):
            divide(masks, rank, whole("core-i5-9600k"))

    @settings(deadline=None, max_examples=100 if LONG else 30)
    @given(topologies(), st.integers(1, 70))
    def test_equal_masks(self, topology, ranks):
        shares = all_shares([topology.cpus] * ranks, topology)
        assert all(shares)
        given_away = Counter(cpu for share in shares for cpu in share)
        assert set(given_away) == set(topology.cpus)
        if ranks <= len(topology.cpus):
            assert max(given_away.values()) == 1  # disjoint
        cores = core_of(topology)
        sizes = [len({cores[cpu] for cpu in share}) for share in shares]
        if ranks <= len(topology.cores):
            assert sum(sizes) == len(topology.cores)  # none is split
            assert max(sizes) - min(sizes) <= 1
        else:
            assert max(given_away.values()) - min(given_away.values()) <= 1

    @settings(deadline=None)
    @given(topologies(), st.data())
    def test_any_masks(self, topology, data):
        mask = st.sets(st.sampled_from(topology.cpus), min_size=1)
        masks = data.draw(st.lists(mask, min_size=1, max_size=9))
        shares = all_shares(masks, topology)
        assert shares == all_shares(masks, topology)
        assert set().union(*shares) == set().union(*masks)
        for mask, share in zip(masks, shares, strict=True):
            assert share
            assert mask.issuperset(share)
            assert list(share) == sorted(set(share))
        uses = Counter(cpu for mask in masks for cpu in mask)
        for mask, share in zip(masks, shares, strict=True):
            assert set(share).issuperset(cpu for cpu in mask if uses[cpu] == 1)

    @settings(deadline=None)
    @given(topologies(), st.integers(1, 8))
    def test_few_ranks_cross_nodes(self, topology, ranks):
        """Cutting at random places between n nodes, at most n - 1 ranks cross for each sort."""
        assume(ranks <= len(topology.cores))
        crossings = sum(
            len(set(nodes_of(topology, share))) - 1
            for share in all_shares([topology.cpus] * ranks, topology)
        )
        assert crossings <= len(topology.numa_nodes) - 1


class TestSpare:
    @pytest.mark.parametrize(
        ("name", "cpus", "compute", "spare"),
        [
            ("core-i5-9600k", "0-5", "0-4", 5),
            ("ryzen-7-5800x", "0-15", "0-6,8-14", 7),
            ("xeon-6130-x2", "0-15,32-47", "0-14,32-46", 15),
            ("core-i7-12700k", "0-19", "0-18", 19),
            ("rk3588", "0-7", "0-2,4-7", 3),  # a little core
            ("rk3588", "4-7", "4-6", 7),
            ("kvm-offline", "0-1,2", "0-1", 2),
            ("kvm-offline", "0-1", "0-1", None),  # siblings: one core
            ("kvm-bare", "2", "2", None),
        ],
    )
    def test_last_core(self, name, cpus, compute, spare):
        cpus = parse_cpu_list(cpus)
        assert without_spare(whole(name), cpus) == (parse_cpu_list(compute), spare)

    def test_order_is_kept(self):
        assert without_spare(whole("ryzen-7-5800x"), (9, 3, 1, 0, 11)) == ((9, 1, 0), 3)

    @pytest.mark.parametrize(
        ("cpus", "message"), [((), "cpus: got none"), ((0, 6), "cpus: got CPU 6, expected")]
    )
    def test_mistakes(self, cpus, message):
        with pytest.raises(ValueError, match=message):
            without_spare(whole("core-i5-9600k"), cpus)

    @settings(deadline=None)
    @given(topologies())
    def test_one_core_less(self, topology):
        compute, spare = without_spare(topology, topology.cpus)
        if spare is None:
            assert (compute, len(topology.cores)) == (topology.cpus, 1)
        else:
            gone = core_of(topology)[spare]
            assert sorted(compute + gone) == [*topology.cpus]
