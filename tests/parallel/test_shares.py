"""Ranks divide the CPUs of their host: under mpiexec, on the real one and on machines made up."""

import json
from pathlib import Path

import pytest

from lowerconv.machine.topology import format_cpu_list

from ..machine.groups import write_groups
from ..machine.machines import machine, unfold, write_sysfs

PROGRAM = Path(__file__).parent / "programs/shares.py"

TWO_NODES = {"packages": 2, "cores": 4}
#  ranks, what they may use each, and what they get
DIVIDED = [
    (1, "0-7", "0-7 8"),
    (2, "0-7", "0-3 4; 4-7 4"),
    (3, "0-7", "0-2 3; 3-5 3; 6-7 2"),
    (5, "0-7", "0-1 2; 2-3 2; 4-5 2; 6 1; 7 1"),
    (2, "0-3 4-7", "0-3 4; 4-7 4"),  # bound to a node each
    (3, "0-3 4-7", "0-3 4; 4-5 2; 6-7 2"),
    (2, "2-7", "2-4 3; 5-7 3"),
]
STORED = {
    "xeon-6130-x2": "0-10,32-42 11; 11-21,43-53 11; 22-31,54-63 10",
    "slurm-cpuset": "16-17,48-49 2; 18,50 1; 19,51 1",
    # 2.5 CPUs of time are less than one for each rank.
    "container-cgroup2": "0-2,8-10 1; 3-5,11-13 1; 6-7,14-15 1",
}


def made_up(directory: Path, masks: str, **extents: int) -> list:
    """Return a host as `PROGRAM` takes it, of a made-up machine."""
    directory.mkdir()
    sysfs = write_sysfs(directory / "sys", machine(**extents))
    groups = write_groups(directory, "0::/\n", {})
    return [str(sysfs), str(groups["cgroup"]), str(groups["proc"]), masks.split()]


def stored(directory: Path, name: str) -> list:
    """Return a host as `PROGRAM` takes it, of a stored machine."""
    directory.mkdir()
    paths = unfold(directory, name)
    files = [str(paths[key]) for key in ("sysfs", "cgroup", "proc")]
    return [*files, [format_cpu_list(paths["usable"])]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_of_a_host(mpiexec, tmp_path, ranks):
    """This one, and machines made up; more is asserted by the ranks."""
    divided = [(masks, shares) for count, masks, shares in DIVIDED if count == ranks]
    hosts = [made_up(tmp_path / masks, masks, **TWO_NODES) for masks, _ in divided]
    expected = [shares for _, shares in divided]
    if ranks == 3:
        hosts += [stored(tmp_path / name, name) for name in STORED]
        expected += STORED.values()
        hosts.append(made_up(tmp_path / "launcher", "0-3 5,13", **TWO_NODES, smt=2))
    done = mpiexec(ranks, PROGRAM, json.dumps([None, *hosts]))
    assert done.returncode == 0, done.stderr
    this, *others = map(json.loads, done.stdout.splitlines())
    assert len(this) >= ranks
    if ranks == 3:
        *shares, warning = others.pop()
        assert shares == ["0-3 4", "5 1", "13 1"]
        told = "The launcher bound ranks 1-2 to a single core, while 3 others have no rank"
        assert told in warning
    assert others == [shares.split("; ") for shares in expected]
