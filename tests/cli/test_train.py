"""``lowerconv train`` as a user calls it: through processes of its own."""

import csv
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lowerconv.train.checkpoint import load_checkpoint

from ..long import LONG, long_but

CHECKPOINT = "checkpoint.safetensors"


def weights(out: Path, file: str) -> dict[str, bytes]:
    return {n: t.tobytes() for n, t in load_checkpoint(out / file).tensors.items()}


def losses(out: Path) -> list[float]:
    with open(out / "metrics.csv") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_a_run_leaves_everything(run_lowerconv, run_here, tiny_fashion, tmp_path):
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
    assert {"metrics.csv", CHECKPOINT, "best.safetensors"} <= {path.name for path in out.iterdir()}
    assert len(losses(out)) == 2

    again = run_here(*arguments, cwd=tmp_path)  # never over an older run
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2

    done = run_here(*arguments, "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert "epoch 2/2" not in done.stdout

    assert "resumed: complete: 2 epochs are done, of 2" in done.stdout

    other = run_here(*arguments, "--resume", "--lr", 0.5, "--momentum", 0.8, cwd=tmp_path)
    assert other.returncode == 1
    assert "was trained with lr 0.02, not 0.5; momentum 0.9, not 0.8" in other.stderr

    more = run_here(*arguments[:-1], 3, "--resume", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert "resumed: epochs: 2 before, 3 now: schedule cosine" in more.stdout
    assert "epoch 3/3  loss" in more.stdout


@pytest.mark.parametrize("ranks", long_but([3], [2, 3]))
def test_ranks_agree_with_one_process(run_here, mpiexec, tiny_fashion, tmp_path, ranks):
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 2)
    run_here(*arguments, "--out", tmp_path / "alone")
    run = mpiexec(ranks, "-m", "lowerconv", *arguments, "--out", tmp_path / "many")
    assert run.returncode == 0, run.stderr
    assert f"{ranks} ranks" in run.stdout
    assert run.stdout.count("epoch 2/2  loss") == 1  # only rank 0 speaks
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "alone"), rtol=1e-4)


def test_ranks_resume_and_agree_with_one_process(run_here, mpiexec, tiny_fashion, tmp_path):
    """All that a rank must know of a checkpoint comes from rank 0."""
    recipe = "--optimizer lars --accumulate 2 --batch 32 --ema 0.8 --schedule step --warmup 1"
    recipe += " --label-smoothing 0.1 --scale-lr-from 32 --validation 0.2 --patience 2 --epochs 3"
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", *recipe.split())
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.train.trainer import Trainer\n"
        "save = Trainer.save\n"
        "def save_and_die(self):\n"
        "    save(self)\n"
        "    if len(self.history) == 1: raise OSError('killed')\n"
        "if '--resume' not in sys.argv: Trainer.save = save_and_die\n"
        "sys.exit(main())\n"
    )
    alone = run_here(*arguments, "--out", tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    killed = mpiexec(2, program, *arguments, "--out", tmp_path / "many")
    assert "killed" in killed.stderr
    resumed = mpiexec(2, program, *arguments, "--out", tmp_path / "many", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert len(losses(tmp_path / "alone")) > 1
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "alone"), rtol=1e-3)


def test_a_program_of_ones_own_trains_on_all_ranks(mpiexec, tiny_fashion, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from lowerconv.train import Trainer\n"
        f"Trainer('lenet', 'fashion-mnist:{tiny_fashion}', epochs=1).fit()\n"
    )
    run = mpiexec(2, "-m", "mpi4py", program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "2 ranks" in run.stdout
    assert run.stdout.count("epoch 1/1  loss") == 1
    assert (tmp_path / "runs").exists()


def test_a_killed_run_resumes_to_the_same_weights(run_lowerconv, tiny_fashion, tmp_path):
    """Killed at a random moment, five times where it may take long, or LOWERCONV_KILLS."""
    kills = int(os.environ.get("LOWERCONV_KILLS", "5" if LONG else "1"))
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    recipe = "--optimizer adam --ema 0.9 --accumulate 2 --batch 32 --schedule step --warmup 2"
    recipe += " --augment crop,rotate,cast"
    arguments = ["train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", f"{8 * kills}"]
    arguments += recipe.split()
    unbroken = run_lowerconv(*arguments, "--out", tmp_path / "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    with open(tmp_path / "unbroken" / "metrics.csv") as file:
        seconds = sum(float(row["seconds"]) for row in csv.DictReader(file)) / (8 * kills)

    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "lowerconv", *arguments, "--out", str(broken)]
    done = []
    while len(done) < kills:
        resume = ["--resume"] if (broken / CHECKPOINT).exists() else []
        with subprocess.Popen(command + resume, stdout=subprocess.PIPE, text=True) as process:
            # Somewhere in its first epochs; and now and then while it starts.
            wanted = "first step" if rng.random() < 0.8 else "training and"
            if not any(wanted in line for line in process.stdout):
                break  # all epochs are done
            time.sleep(rng.uniform(0, 10 * seconds))
            process.kill()
        if (broken / CHECKPOINT).exists():  # then it is whole, whenever it was
            done.append(len(load_checkpoint(broken / CHECKPOINT).state["history"]))
        else:
            done.append(0)
    assert done
    print(f"epochs done when killed: {done}")
    resumed = run_lowerconv(*arguments, "--out", broken, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for file in (CHECKPOINT, "best.safetensors"):
        assert weights(broken, file) == weights(tmp_path / "unbroken", file)
    assert losses(broken) == losses(tmp_path / "unbroken")


MISTAKES = {
    "unknown-model": (["--model", "vgg"], "--model"),
    "unknown-data": (["--data", "imagenet"], "data: got 'imagenet'"),
    "missing-directory": (["--data", "cifar10:nowhere"], "nowhere"),
    "no-epochs": (["--epochs", "0"], "--epochs: got 0, expected at least 1"),
    "no-number": (["--lr", "fast"], "--lr: got 'fast', expected float, at least 0"),
    "negative": (["--lr", "-1"], "--lr"),
    "nan": (["--lr", "nan"], "--lr: got nan"),
    "momentum-of-one": (
        ["--momentum", "1"],
        "--momentum: got 1.0, expected at least 0 and below 1",
    ),
    "ema-of-one": (["--ema", "1"], "--ema: got 1.0, expected at least 0 and below 1"),
    "unknown-effect": (["--augment", "mirror"], "augment: got 'mirror' in 'mirror', expected some"),
    "less-than-no-threads": (["--loader-threads", "-1"], "--loader-threads: got -1, expected at"),
    "no-milestones": (
        ["--milestones", "a"],
        "--milestones: got 'a', expected ascending epochs from",
    ),
    "all-warmup": (["--epochs", "2", "--warmup", "2"], "warmup: got 2, expected less than 2"),
    "not-of-adam": (["--optimizer", "adam", "--momentum", "0.5"], "optimizer 'adam' has no"),
    "all-held-out": (["--validation", "0.99999"], "validation of 0.99999: found 8500 of 8500"),
    "too-many-threads": (
        ["--threads", "100000"],
        "--threads: got 100000, expected at least 1 and at most",
    ),
    "nothing-to-resume": (["--resume", "--out", "nowhere"], "no checkpoint there"),
    "out-is-a-file": (["--out", "/dev/null"], "/dev/null"),
    "too-small-images": (["--data", "folder:SMALL?size=4"], "at least 16 x 16 pixels"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_without_a_traceback(run_here, tmp_path, name):
    from PIL import Image

    for part in ("train", "test"):
        directory = tmp_path / "SMALL" / part / "class"
        directory.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(directory / "image.png")
    arguments, message = MISTAKES[name]
    run = run_here("train", *arguments, cwd=tmp_path)
    assert run.returncode in (1, 2)
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs").exists() or name == "too-small-images"


@pytest.mark.parametrize(
    "name",
    long_but(
        ["no-epochs", "missing-directory"], ["unknown-data", "no-epochs", "missing-directory"]
    ),
)
def test_ranks_tell_a_mistake_once(mpiexec, tmp_path, name):
    arguments, message = MISTAKES[name]
    run = mpiexec(3, "-m", "lowerconv", "train", *arguments, cwd=tmp_path)
    assert run.returncode != 0
    assert (run.stderr + run.stdout).count(message) == 1


def test_a_run_that_diverges_names_the_layer(run_here, tiny_fashion, tmp_path):
    data = f"fashion-mnist:{tiny_fashion}"
    run = run_here("train", "--data", data, "--lr", "1e20", "--out", tmp_path / "run")
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if "compiled" not in line]
    assert line.startswith("lowerconv: error: ")
    assert "is the first whose output holds" in line or "holds nan" in line
    assert load_checkpoint(tmp_path / "run" / CHECKPOINT).state["history"] == []


def test_an_existing_run_is_not_overwritten(run_here, tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"precious")
    run = run_here("train", "--out", tmp_path)
    assert run.returncode == 1
    assert "holds a run already" in run.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == b"precious"


def test_what_the_launcher_did_is_told_once(mpiexec, tiny_fashion, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.parallel.comm import binding, mpi_communicator\n"
        "def squeezed(ranks, *_): return binding.Squeeze(binding.IDLE, tuple(ranks), 7)\n"
        "mpi_communicator.find_squeeze = squeezed\n"
        f"sys.exit(main(['train', '--data', 'fashion-mnist:{tiny_fashion}', '--epochs', '1']))\n"
    )
    run = mpiexec(3, program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("warning: The launcher bound ranks 0-2 to a single core") == 1
    assert run.stdout.count("--bind-to none") == 1


@pytest.mark.long  # as a strategy's fault ends them: tests/parallel/faults/test_faults.py
def test_a_failing_rank_ends_all(mpiexec, tiny_fashion, tmp_path):
    """Only rank 1 fails, in the middle of training; the others would wait for it forever."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.parallel.comm.mpi_communicator import launched_rank\n"
        "from lowerconv.nn import SGD\n"
        "if launched_rank() == 1:\n"
        "    def fail(self, *_): raise ZeroDivisionError('on purpose')\n"
        "    SGD.update = fail\n"
        f"sys.exit(main(['train', '--data', 'fashion-mnist:{tiny_fashion}', '--out', 'run']))\n"
    )
    run = mpiexec(3, program, cwd=tmp_path)
    assert run.returncode != 0
    assert "error on rank 1" in run.stderr
    assert "ZeroDivisionError: on purpose" in run.stderr
