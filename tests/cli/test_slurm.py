"""``lowerconv slurm``: the script is run by bash, with a made-up cluster on its path."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lowerconv.machine.topology import read_topology

from ..long import long_but

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="job scripts are for bash")

# Prints what it is given, a word a line, and is killed or ends as CODE says.
STUB = """#!/bin/bash
printf '%s\\n' "$(basename "$0")" "$@" >> "$CALLS"
if [ -n "${WAIT-}" ] && [ "$(basename "$0")" != scontrol ]; then
  trap 'exit 42' TERM
  touch "$CALLS.waiting"
  while [ ! -e "$CALLS.go" ]; do sleep 0.05; done
fi
exit "${CODE-0}"
"""

# Otherwise the script asks Python how many NUMA nodes there are.
ONE_RANK = ("--nodes", 1, "--ranks-per-node", 1)
# What Slurm says in the script of a job of 3 nodes of 8 CPUs.
JOB = {"SLURM_JOB_ID": "77", "SLURM_JOB_NUM_NODES": "3", "SLURM_CPUS_ON_NODE": "8"}
NUMA_NODES = len(read_topology().numa_nodes)
PYTHON = sys.executable


@pytest.fixture
def cluster(tmp_path):
    """Return the environment in a job, with stubs of all commands that a script calls."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name in ("srun", "scontrol"):
        (stubs / name).write_text(STUB)
        (stubs / name).chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    path = {"PATH": f"{stubs}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls")}
    return kept | JOB | path


@pytest.fixture
def script_of(run_here, tmp_path):
    """Return a function that writes a script, checks its grammar, and returns its path."""

    def write(*arguments, mpi="pmi2"):
        file = tmp_path / "job.sh"
        done = run_here("slurm", "--mpi", mpi, "-o", file, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        subprocess.run([BASH, "-n", file], check=True)
        return file

    return write


def submit(script, environment, **more):
    """Run a script as Slurm would; returns the calls of each stub as lists of words."""
    done = subprocess.run(
        [BASH, script],
        env=environment | more,
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stderr == "", done.stderr
    calls = Path(environment["CALLS"])
    words = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return done.returncode, words


def asked(script):
    """Return what the script asks Slurm for, as sbatch reads it: a # begins a comment."""
    lines = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    assert text.index("set -u") > text.rindex("#SBATCH"), "sbatch stops at the first command"
    return [shlex.split(line.removeprefix("#SBATCH "), comments=True)[0] for line in lines]


def test_one_rank_for_each_numa_node(script_of, cluster, tmp_path):
    script = script_of("--nodes", 3, "--time", "1-02:00:00", "--", "train", "--epochs", 2)
    assert asked(script) == [
        *("--job-name=lowerconv-lenet", "--time=1-02:00:00", "--nodes=3", "--exclusive"),
        *("--requeue", "--open-mode=append", "--output=%x-%j.log", "--signal=B:USR1@120"),
    ]
    code, words = submit(script, cluster)
    assert code == 0
    assert words == [
        *("srun", "--mpi=pmi2", "--nodes=3", f"--ntasks={3 * NUMA_NODES}"),
        *(f"--ntasks-per-node={NUMA_NODES}", f"--cpus-per-task={8 // NUMA_NODES}"),
        *("--cpu-bind=none", "--kill-on-bad-exit=1", PYTHON, "-m", "lowerconv"),
        *("train", "--epochs", "2", "--out", "runs/slurm-77"),
    ]


def test_ranks_and_cores_that_are_given(script_of, cluster):
    given = ("--ranks-per-node", 2, "--cores-per-node", 6, "--partition", "short,long")
    script = script_of("--nodes", 3, *given, "--account", "me@lab", "--", "train", mpi="pmix")
    assert {"--ntasks-per-node=2", "--cpus-per-task=3", "--partition=short,long"} < set(
        asked(script)
    )
    assert "--account=me@lab" in asked(script)
    assert "--exclusive" not in asked(script)
    _, words = submit(script, cluster, SLURM_CPUS_ON_NODE="6")
    assert {"--mpi=pmix", "--ntasks=6", "--ntasks-per-node=2", "--cpus-per-task=3"} < set(words)


def test_cores_without_ranks(script_of, cluster):
    script = script_of("--nodes", 1, "--cores-per-node", 6, "--", "train")
    assert "--cpus-per-task=6" in asked(script)
    assert not [option for option in asked(script) if option.startswith("--ntasks")]


def test_odd_words_arrive_as_they_are(script_of, cluster, tmp_path):
    data = 'folder:/a b/c\'d/$HOME/`id`/"e"\\f*?size=8'
    out = "my runs/$(date) #1 'x'"
    script = script_of(*ONE_RANK, "--", "train", "--data", data, "--out", out)
    _, words = submit(script, cluster)
    assert words[-5:] == ["train", "--data", data, "--out", out]
    (tmp_path / out).mkdir(parents=True)
    (tmp_path / out / "checkpoint.safetensors").touch()
    _, words = submit(script, cluster)
    assert words[-3:] == ["--out", out, "--resume"]


def test_a_job_that_starts_again_resumes(script_of, cluster, tmp_path):
    script = script_of(*ONE_RANK, "--", "train")
    assert "--resume" not in submit(script, cluster)[1]
    run = tmp_path / "runs/slurm-77"
    run.mkdir(parents=True)
    (run / "checkpoint.safetensors").touch()
    assert submit(script, cluster)[1][-3:] == ["--out", "runs/slurm-77", "--resume"]
    assert "--resume" not in submit(script, cluster, SLURM_JOB_ID="78")[1]


@pytest.mark.parametrize("code", [0, 1, 137])
def test_how_ranks_end_is_how_the_job_ends(script_of, cluster, code):
    script = script_of(*ONE_RANK, "--", "train")
    assert submit(script, cluster, CODE=str(code))[0] == code


def test_venv(script_of, cluster, tmp_path):
    venv = tmp_path / "a venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(PYTHON)
    script = script_of("--nodes", 1, "--ranks-per-node", 1, "--venv", venv, "--", "train")
    assert f"{venv}/bin/python" in submit(script, cluster)[1]
    shutil.rmtree(venv)
    script.unlink()
    script = script_of("--nodes", 1, "--venv", venv, "--", "train")
    done = subprocess.run([BASH, script], env=cluster, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 127  # and no rank was started
    assert not Path(cluster["CALLS"]).exists()


def test_mpiexec_of_that_python(script_of, cluster, tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(PYTHON)
    given = ("--nodes", 3, "--ranks-per-node", 2, "--venv", venv, "--", "train")
    script = script_of(*given, mpi="mpiexec")
    for directory in (Path(cluster["PATH"].split(":")[0]), venv / "bin"):  # the last is preferred
        (directory / "mpiexec").write_text(STUB.replace('$(basename "$0")" "$@"', '$0" "$@"'))
        (directory / "mpiexec").chmod(0o755)
        _, words = submit(script, cluster)
        assert words[0] == str(directory / "mpiexec")
        assert words[1:5] == ["-n", "6", "--bind-to", "none"]
        assert words[5:] == [
            f"{venv}/bin/python",
            "-m",
            "lowerconv",
            "train",
            "--out",
            "runs/slurm-77",
        ]


@pytest.fixture
def running(cluster, tmp_path):
    """Return a function that starts a script whose ranks wait, and returns its process."""
    started = []

    def start(script):
        for left in tmp_path.glob("calls*"):
            left.unlink()
        process = subprocess.Popen(
            [BASH, script],
            env=cluster | {"WAIT": "1"},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        wait_for(lambda: (tmp_path / "calls.waiting").exists())
        return process

    yield start
    (tmp_path / "calls.go").touch()
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


METRICS = "epoch,train_loss\n"


@pytest.mark.parametrize("done_before", [0, 3])
def test_time_that_is_over(script_of, running, tmp_path, done_before):
    """The job goes back to the queue if an epoch was done in it; the ranks go on until then."""
    script = script_of(*ONE_RANK, "--", "train", "--out", "run")
    (tmp_path / "run").mkdir()
    metrics = tmp_path / "run/metrics.csv"
    if done_before:
        metrics.write_text(METRICS + "row\n" * done_before)

    process = running(script)
    metrics.write_text(METRICS + "row\n" * done_before)
    process.send_signal(signal.SIGUSR1)
    assert "not started again" in process.stdout.readline()
    assert "scontrol" not in (tmp_path / "calls").read_text()
    metrics.write_text(METRICS + "row\n" * (done_before + 1))
    process.send_signal(signal.SIGUSR1)
    assert f"back to the queue after {done_before + 1} epochs" in process.stdout.readline()
    wait_for(lambda: "scontrol" in (tmp_path / "calls").read_text())
    assert (tmp_path / "calls").read_text().splitlines()[-3:] == ["scontrol", "requeue", "77"]
    assert process.poll() is None
    (tmp_path / "calls.go").touch()
    assert process.wait(300) == 0


def test_ranks_that_end_while_the_job_is_told(script_of, running, cluster, tmp_path):
    """The wait for them was ended by the signal: how they ended is still what counts."""
    ended = """#!/bin/bash
    touch "$CALLS.go"
    while pgrep -P "$PPID" -x srun > /dev/null; do sleep 0.02; done
    """
    Path(cluster["PATH"].split(":")[0], "scontrol").write_text(ended)
    (tmp_path / "run").mkdir()
    process = running(script_of(*ONE_RANK, "--", "train", "--out", "run"))
    (tmp_path / "run/metrics.csv").write_text(METRICS + "row\n")
    process.send_signal(signal.SIGUSR1)
    assert process.wait(300) == 0


def test_ranks_are_ended_with_the_job(script_of, running):
    process = running(script_of(*ONE_RANK, "--", "train"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 42  # what the stub of srun answers


def test_prints_and_never_overwrites(run_lowerconv, run_here, tmp_path):
    arguments = ("slurm", "--nodes", 2, "--mpi", "pmix", "--", "train", "--epochs", 1)
    printed = run_lowerconv(*arguments)
    file = tmp_path / "job.sh"
    assert run_here(*arguments[:5], "-o", file, *arguments[5:]).returncode == 0
    assert file.read_text() == printed.stdout
    again = run_here(*arguments[:5], "-o", file, *arguments[5:])
    assert again.returncode == 1
    assert str(file) in again.stderr


def test_mpi_is_told_by_what_is_installed(run_here):
    from lowerconv.machine.mpi import describe_mpi

    library = describe_mpi()["library"]
    printed = run_here("slurm", "--nodes", 2, "--", "train").stdout
    spoken = {"Open MPI": "pmix", "MPICH": "pmi2"}
    (expected,) = [mpi for name, mpi in spoken.items() if name in library]
    assert re.findall("srun --mpi=([a-z0-9]+)", printed) == [expected]


MISTAKES = {
    "no-nodes": ("--nodes 0 -- train", "--nodes: got 0, expected at least 1"),
    "no-number": ("--nodes many -- train", "--nodes: got 'many', expected int"),
    "no-command": ("--nodes 1", "-- train ...: got nothing, expected the command to run"),
    "another-command": ("--nodes 1 -- bench", "-- train ...: got bench, expected"),
    "mistake-in-command": (
        "--nodes 1 -- train --lr fast",
        "--lr: got 'fast', expected float, at least 0",
    ),
    "no-multiple": (
        "--nodes 1 --cores-per-node 7 --ranks-per-node 2 -- train",
        "--cores-per-node: got 7, expected a multiple of --ranks-per-node 2",
    ),
    "time": ("--nodes 1 --time soon -- train", "--time: got 'soon', expected minutes, HH:MM:SS"),
    "partition": (
        "--nodes 1 --partition 'a b' -- train",
        "--partition: got 'a b', expected a name",
    ),
    "account": ("--nodes 1 --account '#' -- train", "--account: got '#', expected a name"),
    "mpi": ("--nodes 1 --mpi pmi1 -- train", "--mpi: invalid choice: 'pmi1'"),
    "line-break": ("--nodes 1 -- train --out 'a\nb'", "got 'a\\nb', expected no line breaks"),
    "nothing-to-resume": ("--nodes 1 -- train --resume", "--resume: got no --out, expected"),
    "ranks-of-mpiexec": (
        "--nodes 1 --mpi mpiexec -- train",
        "--ranks-per-node: got none, expected a number with --mpi mpiexec",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(run_here, tmp_path, name):
    arguments, message = MISTAKES[name]
    run = run_here("slurm", "-o", tmp_path / "job.sh", *shlex.split(arguments))
    assert run.returncode in (1, 2)
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "job.sh").exists()


@pytest.mark.parametrize(
    "time",
    long_but(
        ["90:30", "1-12"], ["90", "90:30", "02:00:00", "1-12", "1-12:30", "1-12:30:00", "2:00:00"]
    ),
)
def test_times(script_of, time):
    assert f"--time={time}" in asked(script_of("--nodes", 1, "--time", time, "--", "train"))


def test_the_script_trains(script_of, cluster, tmp_path, tiny_fashion):
    """With an srun that starts one task, as it does for one node with one rank."""
    stub = Path(cluster["PATH"].split(":")[0]) / "srun"
    stub.write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
    command = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 2)
    script = script_of("--nodes", 1, "--ranks-per-node", 1, "--", *command)
    for _ in range(2):  # the second has nothing left to do
        done = subprocess.run(
            [BASH, script],
            env=cluster | {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    assert "1 process" in done.stdout
    assert "epoch 2/2" not in done.stdout
    assert (tmp_path / "runs/slurm-77/checkpoint.safetensors").exists()
