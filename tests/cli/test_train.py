"""``lowerconv train`` as a user calls it: through processes of its own."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lowerconv.train.checkpoint import load_checkpoint

CHECKPOINT = "checkpoint.safetensors"


def weights(out: Path) -> dict[str, bytes]:
    return {n: t.tobytes() for n, t in load_checkpoint(out / CHECKPOINT).tensors.items()}


def losses(out: Path) -> list[float]:
    with open(out / "metrics.csv") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_a_run_leaves_everything(run_lowerconv, tiny_fashion, tmp_path):
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 2)
    run = run_lowerconv(*arguments, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    # The first process of a machine says what it compiles, and nothing else.
    assert all(line.startswith("lowerconv: compiled ") for line in run.stderr.splitlines())
    assert "lenet, 431,080 parameters" in run.stdout
    assert "1 process" in run.stdout
    assert "epoch 1/2  loss" in run.stdout
    assert "test accuracy" in run.stdout.splitlines()[-1]
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("lenet-fashion-mnist-")
    assert {"metrics.csv", CHECKPOINT} <= {path.name for path in out.iterdir()}
    assert len(losses(out)) == 2

    again = run_lowerconv(*arguments, cwd=tmp_path)  # never over an older run
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2

    done = run_lowerconv(*arguments, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert "epoch 2/2" not in done.stdout

    other = run_lowerconv(*arguments[:-1], 3, "--resume", cwd=tmp_path)
    assert other.returncode == 1
    assert "was trained with epochs 2, not 3" in other.stderr


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_agree_with_one_process(run_lowerconv, mpiexec, tiny_fashion, tmp_path, ranks):
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 2)
    run_lowerconv(*arguments, "--out", tmp_path / "alone")
    run = mpiexec(ranks, "-m", "lowerconv", *arguments, "--out", tmp_path / "many")
    assert run.returncode == 0, run.stderr
    assert f"{ranks} ranks" in run.stdout
    assert run.stdout.count("epoch 2/2  loss") == 1  # only rank 0 speaks
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "alone"), rtol=1e-4)


def test_a_killed_run_resumes_to_the_same_weights(run_lowerconv, tiny_fashion, tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    arguments = ["train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", "12"]
    unbroken = run_lowerconv(*arguments, "--out", tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr

    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "lowerconv", *arguments, "--out", str(broken)]
    kills = 0
    for _ in range(3):
        resume = ["--resume"] if (broken / CHECKPOINT).exists() else []
        process = subprocess.Popen(command + resume, stdout=subprocess.DEVNULL)
        # Kill it somewhere in an epoch, at a time that counts from its first checkpoint.
        deadline = time.monotonic() + 120
        while not (broken / CHECKPOINT).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        load_checkpoint(broken / CHECKPOINT)  # whole, whenever it was
    assert kills > 0
    resumed = run_lowerconv(*arguments, "--out", broken, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert weights(broken) == weights(tmp_path / "unbroken")
    assert losses(broken) == losses(tmp_path / "unbroken")


MISTAKES = {
    "unknown-model": (["--model", "vgg"], "--model"),
    "unknown-data": (["--data", "imagenet"], "data: got 'imagenet'"),
    "missing-directory": (["--data", "cifar10:nowhere"], "nowhere"),
    "no-epochs": (["--epochs", "0"], "--epochs: got 0, expected at least 1"),
    "no-number": (["--lr", "fast"], "--lr: invalid float value: 'fast'"),
    "negative": (["--lr", "-1"], "--lr"),
    "nan": (["--lr", "nan"], "--lr: got nan"),
    "momentum-of-one": (["--momentum", "1"], "--momentum: got 1, expected at least 0 and below 1"),
    "too-many-threads": (["--threads", "100000"], "--threads: n: got 100000 threads"),
    "nothing-to-resume": (["--resume", "--out", "nowhere"], "no checkpoint there"),
    "out-is-a-file": (["--out", "/dev/null"], "/dev/null"),
    "too-small-images": (["--data", "folder:SMALL?size=4"], "kernel of 5 rows"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_without_a_traceback(run_lowerconv, tmp_path, name):
    from PIL import Image

    for part in ("train", "test"):
        directory = tmp_path / "SMALL" / part / "class"
        directory.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(directory / "image.png")
    arguments, message = MISTAKES[name]
    run = run_lowerconv("train", *arguments, cwd=tmp_path)
    assert run.returncode in (1, 2)
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs").exists() or name == "too-small-images"


@pytest.mark.parametrize("name", ["unknown-data", "no-epochs", "missing-directory"])
def test_ranks_tell_a_mistake_once(mpiexec, tmp_path, name):
    arguments, message = MISTAKES[name]
    run = mpiexec(3, "-m", "lowerconv", "train", *arguments, cwd=tmp_path, timeout=60)
    assert run.returncode != 0
    assert (run.stderr + run.stdout).count(message) == 1


def test_an_existing_run_is_not_overwritten(run_lowerconv, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"precious")
    run = run_lowerconv("train", "--out", tmp_path)
    assert run.returncode == 1
    assert "holds a run already" in run.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == b"precious"


def test_what_the_launcher_did_is_told_once(mpiexec, tiny_fashion, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.parallel import binding, communicator\n"
        "def squeezed(ranks, *_): return binding.Squeeze(binding.IDLE, tuple(ranks), 7)\n"
        "communicator.find_squeeze = squeezed\n"
        f"sys.exit(main(['train', '--data', 'fashion-mnist:{tiny_fashion}', '--epochs', '1']))\n"
    )
    run = mpiexec(3, program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("warning: The launcher bound ranks 0-2 to a single core") == 1
    assert run.stdout.count("--bind-to none") == 1


def test_a_failing_rank_ends_all(mpiexec, tiny_fashion, tmp_path):
    """Only rank 1 fails, in the middle of training; the others would wait for it forever."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.parallel.communicator import launched_rank\n"
        "from lowerconv.nn import SGD\n"
        "if launched_rank() == 1:\n"
        "    def fail(self): raise ZeroDivisionError('on purpose')\n"
        "    SGD.step = fail\n"
        f"sys.exit(main(['train', '--data', 'fashion-mnist:{tiny_fashion}', '--out', 'run']))\n"
    )
    run = mpiexec(3, program, cwd=tmp_path, timeout=120)
    assert run.returncode != 0
    assert "error on rank 1" in run.stderr
    assert "ZeroDivisionError: on purpose" in run.stderr
