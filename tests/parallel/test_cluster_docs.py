"""What docs/cluster.md says works, on this machine."""

import re
import shlex
from pathlib import Path

import pytest

from lowerconv.cli.main import build_parser
from lowerconv.machine.mpi import describe_mpi
from lowerconv.parallel import Communicator
from lowerconv.parallel.comm.agreement import DisagreementError, check_facts_agree
from lowerconv.parallel.comm.rank_map import Place, RankMap

from ..long import drawn

DOCS = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", DOCS, re.S) for line in block.splitlines()
]
LAUNCHED = [line for line in COMMANDS if line.startswith("mpiexec") and "lowerconv" in line]
# Each MPI has its own file of hosts; and words of its own for one rank per NUMA node.
HOSTS = {"MPICH": "localhost:4\n", "Open MPI": "localhost slots=4\n"}
(MPI,) = [name for name in HOSTS if name in (describe_mpi()["library"] or "")] or [None]


def test_commands_have_these_options(tmp_path):
    parser = build_parser()
    tried = 0
    for line in COMMANDS:
        words = shlex.split(line)
        if "lowerconv" in words:
            parser.parse_args(words[words.index("lowerconv") + 1 :])  # ends the test if it cannot
            tried += 1
    assert tried > 4


def test_commands_run(mpiexec, tiny_fashion, tmp_path, rng):
    """On this host, with a smaller network and fewer images."""
    here = [line for line in LAUNCHED if "ppr:1:numa" not in line or MPI == "Open MPI"]
    for number, line in enumerate(drawn(rng, here, 2)):
        print(line)
        (tmp_path / str(number)).mkdir()
        check_command(mpiexec, tiny_fashion, tmp_path / str(number), line)


def check_command(mpiexec, tiny_fashion, tmp_path, line):
    words = shlex.split(line)
    start = words.index("lowerconv")
    options, arguments = words[1:start], words[start + 1 :]
    ranks = 1
    if "-n" in options:
        at = options.index("-n")
        ranks = int(options[at + 1])
        del options[at : at + 2]
    smaller = {"--data": f"fashion-mnist:{tiny_fashion}", "--model": "lenet", "--threads": "1"}
    for option, value in smaller.items():
        if option in arguments:
            arguments[arguments.index(option) + 1] = value
    (tmp_path / "hosts").write_text(HOSTS[MPI])
    run = mpiexec(
        ranks, "-m", "lowerconv", *arguments, "--epochs", 1, options=options, cwd=tmp_path
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{ranks} ranks (" in run.stdout
    assert "epoch 1/1  loss" in run.stdout


def test_first_lines():
    places = [Place(f"n{rank // 2}", 16, 16, 2) for rank in range(128)] + [Place("fat", 64, 64, 4)]
    hosts = [[2 * i, 2 * i + 1] for i in range(64)] + [[128]]
    job = RankMap(places, hosts)
    told = [*job.lines(), *(f"advice: {line}" for line in job.advice())]
    assert "```text\n" + "\n".join(told) + "\n```" in DOCS


def test_refusal():
    class Last(Communicator):
        def gather(self, value):
            others = 1 if isinstance(value, int) else {"lr": "0.1"}
            return [others, others, others, value]

    with pytest.raises(DisagreementError) as refused:
        check_facts_agree(Last(), {"lr": 0.5})
    assert f"```text\n{refused.value}\n```" in DOCS
