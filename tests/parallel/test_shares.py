"""Ranks divide the CPUs of their host: under mpiexec, on the real one and on machines made up."""

from pathlib import Path

import pytest

from lowerconv.machine.topology import format_cpu_list

from ..machine.groups import write_groups
from ..machine.machines import machine, unfold, write_sysfs

PROGRAM = Path(__file__).parent / "programs/shares.py"


@pytest.fixture
def shares_of(mpiexec):
    """Return a function: what `PROGRAM` prints on some ranks, which differ in what they may use."""

    def run(ranks, *arguments):
        done = mpiexec(ranks, PROGRAM, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_this_host(shares_of, ranks):
    assert len(shares_of(ranks)) >= ranks  # everything else is asserted by the ranks


@pytest.mark.parametrize(
    ("ranks", "masks", "shares"),
    [
        (1, "0-7", "0-7 8"),
        (2, "0-7", "0-3 4; 4-7 4"),
        (3, "0-7", "0-2 3; 3-5 3; 6-7 2"),
        (5, "0-7", "0-1 2; 2-3 2; 4-5 2; 6 1; 7 1"),
        (2, "0-3 4-7", "0-3 4; 4-7 4"),  # bound to a node each
        (3, "0-3 4-7", "0-3 4; 4-5 2; 6-7 2"),
        (2, "2-7", "2-4 3; 5-7 3"),
    ],
)
def test_two_nodes_of_four_cores(shares_of, tmp_path, ranks, masks, shares):
    sysfs = write_sysfs(tmp_path / "sys", machine(packages=2, cores=4))
    groups = write_groups(tmp_path, "0::/\n", {})
    lines = shares_of(ranks, sysfs, groups["cgroup"], groups["proc"], *masks.split())
    assert lines == shares.split("; ")


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        ("xeon-6130-x2", "0-10,32-42 11; 11-21,43-53 11; 22-31,54-63 10"),
        ("slurm-cpuset", "16-17,48-49 2; 18,50 1; 19,51 1"),
        # 2.5 CPUs of time are less than one for each rank.
        ("container-cgroup2", "0-2,8-10 1; 3-5,11-13 1; 6-7,14-15 1"),
    ],
)
def test_three_ranks_on_stored_machines(shares_of, tmp_path, name, shares):
    paths = unfold(tmp_path, name)
    usable = format_cpu_list(paths["usable"])
    lines = shares_of(3, paths["sysfs"], paths["cgroup"], paths["proc"], usable)
    assert lines == shares.split("; ")


def test_every_rank_knows_what_the_launcher_did(shares_of, tmp_path):
    sysfs = write_sysfs(tmp_path / "sys", machine(packages=2, cores=4, smt=2))
    groups = write_groups(tmp_path, "0::/\n", {})
    *shares, warning = shares_of(3, sysfs, groups["cgroup"], groups["proc"], "0-3", "5,13")
    assert shares == ["0-3 4", "5 1", "13 1"]
    assert "The launcher bound ranks 1-2 to a single core, while 3 others have no rank" in warning
