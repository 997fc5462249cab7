"""Who runs where, of jobs made up and of this host."""

import platform

import pytest

from lowerconv.parallel import Communicator
from lowerconv.parallel.comm.rank_map import Place, RankMap, format_hosts

from ...long import long_but


@pytest.mark.parametrize(
    ("names", "written"),
    [
        ("n0", "n0"),
        ("n0 n1 n2 n3", "n[0-3]"),
        ("n9 n10 n11 n100", "n[9-11,100]"),
        ("n7 n0 n2 n1", "n[0-2,7]"),
        ("node007 node008 node009 node010 node100", "node[007-010,100]"),
        ("node098 node099 node100", "node[098-100]"),
        ("n01 n1", "n[01,1]"),
        ("n0 n00", "n[0,00]"),
        ("login", "login"),
        ("login login", "login"),
        ("n3 n3", "n3"),
        ("a b a1 b2 a2", "a,b,a[1-2],b2"),
        ("rack1-n1.local rack1-n2.local rack2-n1.local", "rack1-n[1-2].local,rack2-n1.local"),
        ("10.77.0.1 10.77.0.2", "10.77.0.[1-2]"),
        ("42 43", "[42-43]"),
    ],
)
def test_names_of_hosts(names, written):
    assert format_hosts(names.split()) == written


def rank_map(*hosts):
    """Return that of hosts (name, NUMA nodes, threads of each rank), ranks in their order."""
    places, members = [], []
    for name, nodes, *threads in hosts:
        members.append(range(len(places), len(places) + len(threads)))
        places += [Place(name, n, n, nodes) for n in threads]
    return RankMap(places, members)


def test_one_host():
    job = rank_map(("box", 2, 8, 8))
    assert job.lines() == ["box: ranks 0-1, 8 threads each on 8 cores (2 NUMA nodes)"]
    assert job.advice() == []


def test_alike_hosts_are_told_together():
    job = rank_map(*((f"n{i}", 2, 16, 16) for i in range(64)))
    assert job.lines() == [
        "n[0-63]: ranks 0-127 (2 on each), 16 threads each on 16 cores (2 NUMA nodes)"
    ]


def test_different_hosts():
    job = rank_map(("n0", 1, 4), ("fat", 2, 11, 11, 10), ("n1", 1, 4))
    assert job.lines() == [
        "n[0-1]: ranks 0,4 (1 on each), 4 threads each on 4 cores (1 NUMA node)",
        "fat: ranks 1-3, 10 to 11 threads each on 10 to 11 cores (2 NUMA nodes)",
    ]


def test_ranks_that_take_turns():
    """Placed on hosts one after another, as mpiexec -ppn 1 does."""
    places = [Place(f"n{rank % 2}", 2, 2, 2) for rank in range(4)]
    job = RankMap(places, [[0, 2], [1, 3]])
    assert job.lines() == [
        "n[0-1]: ranks 0-3 (2 on each), 2 threads each on 2 cores (2 NUMA nodes)"
    ]


def test_hosts_of_one_name_are_still_several():
    job = rank_map(("box", 1, 4), ("box", 1, 4))
    assert job.lines() == ["box: ranks 0-1 (1 on each), 4 threads each on 4 cores (1 NUMA node)"]
    assert job.advice() == []


def test_no_end_of_kinds_of_hosts():
    lines = rank_map(*((f"n{i}", 1, i + 1) for i in range(30))).lines()
    assert len(lines) == 8
    assert lines[-1] == "and 23 hosts of 23 other kinds"
    assert len(rank_map(*((f"n{i}", 1, i + 1) for i in range(8))).lines()) == 8


class TestAdvice:
    @pytest.mark.parametrize(
        ("hosts", "advice"),
        [
            ([("box", 2, 16)], None),  # a process alone
            ([("n0", 2, 16), ("n1", 2, 16)], "2 on n[0-1]"),
            ([("n0", 1, 4, 4)], "1 on n0"),
            ([("n0", 1, 4), ("n1", 1, 4)], None),
            ([("n0", 1, 4), ("n1", 4, 4)], "4 on n1"),
            ([("n0", 2, 4), ("n1", 4, 4)], "2 or 4 on n[0-1]"),
        ],
    )
    def test_one_rank_for_each_node(self, hosts, advice):
        expected = (
            [] if advice is None else [f"one rank for each NUMA node is the best start: {advice}"]
        )
        assert rank_map(*hosts).advice() == expected

    @pytest.mark.parametrize(
        ("threads", "told"), [((8, 8), False), ((8, 5), False), ((8, 4), True)]
    )
    def test_slow_ranks(self, threads, told):
        lines = rank_map(*((f"n{i}", 1, n) for i, n in enumerate(threads))).advice()
        assert bool(lines) == told
        if told:
            assert lines[0].startswith("rank 1 with 4 of up to 8 threads will be waited for: all")


def test_a_process_alone():
    alone = Communicator()
    (line,) = RankMap.gather(alone, 3).lines()
    assert line.startswith(f"{platform.node()}: rank 0, 3 threads each on {alone.cores} core")


@pytest.mark.parametrize("ranks", long_but([3], [2, 3]))
def test_first_lines_of_a_run(mpiexec, tiny_fashion, tmp_path, ranks):
    data = f"fashion-mnist:{tiny_fashion}"
    run = mpiexec(
        ranks,
        "-m",
        "lowerconv",
        "train",
        "--data",
        data,
        "--epochs",
        1,
        "--threads",
        1,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    what, who, *_ = run.stdout.splitlines()
    assert f"{ranks} ranks (" in what
    assert who.startswith(f"{platform.node()}: ranks 0-{ranks - 1}, 1 thread each on ")
