"""What launchers do to ranks, on machines made up."""

import pytest

from lowerconv.machine.topology import parse_cpu_list
from lowerconv.parallel.comm.binding import (
    CROWDED,
    IDLE,
    SHARED,
    Squeeze,
    describe_squeezes,
    find_squeeze,
)

from ...machine.machines import part, whole

FLAGS = ("--bind-to none", "--map-by slot:PE=n", "-bind-to core:n", "--cpus-per-task=n")


class TestFind:
    @pytest.mark.parametrize(
        ("name", "masks", "squeeze"),
        [
            pytest.param("ryzen-7-5800x", "0-15", None, id="one_rank"),
            pytest.param("ryzen-7-5800x", "0-15 0-15 0-15", None, id="unbound"),
            pytest.param("ryzen-7-5800x", "0-3,8-11 4-7,12-15", None, id="bound_to_halves"),
            pytest.param("ryzen-7-5800x", "0-1 2-3", None, id="several_cores_each"),
            pytest.param("kvm-bare", "0 1 2 3", None, id="one_core_each_and_none_idle"),
            pytest.param("kvm-bare", "0 1 2-3", None, id="one_core_or_two"),
            pytest.param("kvm-bare", "0 1 2", (IDLE, "0-2", 1), id="one_core_each_and_one_idle"),
            pytest.param("ryzen-7-5800x", "0 0 0", (IDLE, "0-2", 7), id="all_on_one_core"),
            pytest.param("ryzen-7-5800x", "0,8 1,9", (IDLE, "0-1", 6), id="siblings_are_one_core"),
            pytest.param("ryzen-7-5800x", "0-3 5", (IDLE, "1", 3), id="one_of_two"),
            pytest.param("kvm-bare", "0 0 1-3", (SHARED, "0-1", 4), id="two_on_one_core"),
            pytest.param("kvm-bare", "0-3 2", (SHARED, "1", 4), id="one_among_the_others"),
            pytest.param("kvm-bare", "0 0 1 2 3", (CROWDED, "0-4", 4), id="more_than_cores"),
            pytest.param("kvm-bare", "0-1 0-1 0-1", (CROWDED, "0-2", 2), id="more_than_mask"),
            pytest.param("kvm-offline", "0-1 0-1 2 4", (CROWDED, "0-3", 3), id="siblings"),
        ],
    )
    def test_squeeze(self, name, masks, squeeze):
        masks = [parse_cpu_list(mask) for mask in masks.split()]
        if squeeze is not None:
            kind, ranks, cores = squeeze
            squeeze = Squeeze(kind, parse_cpu_list(ranks), cores)
        assert find_squeeze(range(len(masks)), masks, whole(name)) == squeeze

    def test_ranks_are_those_of_the_job(self):
        found = find_squeeze([4, 6], [(0,), (0,)], whole("kvm-bare"))
        assert found == Squeeze(IDLE, (4, 6), 3)

    def test_machine_of_one_core(self):
        one_core = part(whole("kvm-bare"), (2,))
        assert find_squeeze([0], [(2,)], one_core) is None
        assert find_squeeze([0, 1], [(2,), (2,)], one_core) == Squeeze(CROWDED, (0, 1), 1)


class TestDescribe:
    def test_nothing(self):
        assert describe_squeezes([]) == []

    def test_hosts_are_told_together(self):
        hosts = [Squeeze(IDLE, (2, 3), 6), Squeeze(CROWDED, (7,), 1), Squeeze(IDLE, (0, 1), 6)]
        idle, crowded = describe_squeezes(hosts)
        assert "ranks 0-3 to a single core, while 12 others have no rank" in idle
        assert all(flag in idle for flag in FLAGS)
        assert "1 core," in crowded

    def test_one_rank(self):
        (warning,) = describe_squeezes([Squeeze(IDLE, (5,), 1)])
        assert "rank 5 to a single core, while 1 other has no rank" in warning

    def test_shared(self):
        (warning,) = describe_squeezes([Squeeze(SHARED, (1, 2), 4)])
        assert "ranks 1-2 to a single core, together with other ranks" in warning
        assert all(flag in warning for flag in FLAGS)

    def test_crowded(self):
        (warning,) = describe_squeezes([Squeeze(CROWDED, (0, 1, 2, 3, 4), 2)])
        assert "5 ranks (numbers 0-4) take turns on 2 cores" in warning
        assert "Start one rank per core at most" in warning
