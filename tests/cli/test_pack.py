"""``lowerconv pack``, and training on what it has made."""

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.cli.main import main
from lowerconv.cli.pack import parse_bytes


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / f"pictures/{('cat', 'dog')[i % 2]}/{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return tmp_path / "pictures"


def losses(out: Path) -> list[float]:
    with open(out / "metrics.csv") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def told_by(run_here):
    """Return a function that runs a command, and returns what it prints."""

    def run(*arguments: object, status: int = 0) -> str:
        done = run_here(*arguments)
        assert done.returncode == status
        return done.stderr if status else done.stdout

    return run


def test_pack_and_train(told_by, mpiexec, tiny_fashion, tmp_path):
    told = told_by("pack", tiny_fashion, tmp_path / "shards", "--shard-size", "64K")
    assert told.startswith("255 images, 0.2 MiB in 4 shards, ")
    assert told.endswith(f" s; train on them with --data shards:{tmp_path / 'shards'}\n")

    arguments = ["train", "--epochs", 2, "--data"]
    shards = f"shards:{tmp_path / 'shards'}"
    for name, data in (("files", f"fashion-mnist:{tiny_fashion}"), ("shards", shards)):
        told = told_by(*arguments, data, "--out", tmp_path / name)
    assert losses(tmp_path / "files") == losses(tmp_path / "shards")  # the same images
    assert re.search(r"^data: \d+ batches made ahead by 1 thread in ", told, re.M)

    augmented = [*arguments, shards, "--augment", "crop,rotate=5,cast"]
    for name, threads in (("none", 0), ("three", 3)):
        told = told_by(*augmented, "--loader-threads", threads, "--out", tmp_path / name)
        assert "augmented by crop,rotate=5,cast" in told
    assert losses(tmp_path / "none") == losses(tmp_path / "three")
    assert losses(tmp_path / "none") != losses(tmp_path / "shards")

    run = mpiexec(3, "-m", "lowerconv", *augmented, "--out", tmp_path / "ranks")
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose(losses(tmp_path / "ranks"), losses(tmp_path / "none"), rtol=1e-4)

    told = told_by(*augmented[:-1], "crop", "--out", tmp_path / "none", "--resume", status=1)
    assert "was trained with augment 'crop,rotate=5,cast', not 'crop'" in told


def test_a_spare_core(run_lowerconv, tiny_fashion, tmp_path):
    arguments = ["train", "--epochs", 1, "--data", f"fashion-mnist:{tiny_fashion}"]
    run = run_lowerconv(*arguments, "--augment", "crop", "--spare-core", "--out", tmp_path / "out")
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < 2:
        assert "--spare-core: got a process with a single core" in run.stderr
    else:
        assert run.returncode == 0, run.stderr
        assert re.search(r"^data: \d+ batches made ahead by 1 thread in ", run.stdout, re.M)


def test_pack_a_folder_and_check(pictures, tmp_path, capsys):
    target = tmp_path / "shards"
    arguments = ["pack", str(pictures), str(target), "--size", "16", "--shard-size", "4K"]
    assert main(arguments) == 0
    assert "20 images, 0.1 MiB in 8 shards, " in capsys.readouterr().out
    assert main(arguments) == 0
    assert "in 8 shards (8 of them were there already), " in capsys.readouterr().out
    (target / "train-00003.shard").unlink()
    (target / "index.json").unlink()
    assert main(arguments) == 0
    assert "in 8 shards (7 of them were there already), " in capsys.readouterr().out

    for name in (str(target), f"shards:{target}"):
        assert main(["pack", "--check", name]) == 0
        assert capsys.readouterr().out == "20 images in 8 shards: no damage\n"
    path = target / "train-00003.shard"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert main(["pack", "--check", str(target)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"lowerconv: error: {path}: records 0 to 2 (bytes 64 to 3519): found")
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"{path}: records 0 to 2" in out and "it is made again" in out
    assert main(["pack", "--check", str(target)]) == 0
    assert main([*arguments[:4], "17"]) == 1
    assert "a shard of another data set or size" in capsys.readouterr().err
    assert main(["pack", str(pictures), str(tmp_path / "coded"), "--encoded"]) == 0


MISTAKES = {
    "no-target": (["SRC"], "DST: got none, expected the directory of the shards"),
    "no-source": (["nowhere", "DST"], "data: got 'nowhere', expected one of"),
    "nothing-there": (["folder:nowhere", "DST"], "nowhere: directory: found nothing"),
    "nothing-to-check": (["--check", "nowhere"], "nowhere: directory: found nothing"),
    "target-is-a-file": (["SRC", "SRC/cat/00.png"], "00.png"),
    "target-within": (["SRC", "SRC/cat/shards"], "directory: got SRC/cat/shards within SRC"),
    "size": (
        ["SRC", "DST", "--size", "9999"],
        "size: got 9999, expected at least 1 and at most 8191",
    ),
    "bytes": (
        ["SRC", "DST", "--shard-size", "many"],
        "--shard-size: got 'many', expected a number",
    ),
    "pixels": (["SRC", "DST", "--size", "0"], "--size: got 0, expected at least 1 and at most"),
    "size-of-arrays": (["fashion-mnist", "DST", "--size", "20"], "size: got 20 with 'fashion-"),
    "shards": (["shards:SRC", "DST"], "expected what has not been packed yet"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_without_a_traceback(name, pictures, monkeypatch, capsys):
    monkeypatch.chdir(pictures.parent)
    pictures.rename("SRC")
    arguments, message = MISTAKES[name]
    try:
        status = main(["pack", *arguments])
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr().err
    assert status in (1, 2)
    assert message in told and "Traceback" not in told
    assert not Path("DST").exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", 1), ("64K", 65536), ("3m", 3 << 20), ("256MiB", 256 << 20), ("2 GB", 2 << 30)],
)
def test_bytes(text, count):
    assert parse_bytes(text) == count


def test_train_refuses_effects_it_does_not_know(told_by, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = told_by("train", "--augment", "flip,blur", status=1)
    assert "augment: got 'blur' in 'flip,blur', expected some of crop=12" in told
    assert "Traceback" not in told and not list(tmp_path.iterdir())
