"""Directories of runs: their names, and that each run has one of its own."""

import os
import subprocess
import sys
import threading

import pytest

from lowerconv.locks import BusyError
from lowerconv.train import CheckpointError, directory
from lowerconv.train.checkpoint import LAST
from lowerconv.train.directory import RunDirectory, last_path, new_path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


NAMES = {
    "as-ever": ("cifar10_quick", "fashion-mnist:/data/x_y", "cifar10_quick-fashion-mnist-data-x-y"),
    "umlaut": ("lenet", "folder:M\u00fcnchen", "lenet-folder-M\u00fcnchen"),
    "not-utf-8": ("lenet", "folder:M\udcfcnchen", "lenet-folder-M-nchen"),
    "not-for-all-systems": (
        "lenet",
        'folder:a?b:c*d"e<f>g|h\\i\n',
        "lenet-folder-a-b-c-d-e-f-g-h-i",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    model, data, expected = NAMES[name]
    assert new_path(model, data).name == f"{expected}-1"
    assert new_path(model, data).name == f"{expected}-2"
    assert last_path(model, data).name == f"{expected}-2"


LONG = {
    "path": "folder:/" + "/".join(f"some-folder-{i}" for i in range(20)),
    "one-word": "folder:" + "x" * 300,
    "many-bytes": "folder:" + "\u6570\u636e" * 200,
    "beyond-the-plane": "folder:" + "\U00020000" * 200,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("model", ["lenet", "A" * 300])
def test_long_names_are_shortened_and_told_apart(model, name):
    paths = [new_path(model, LONG[name] + end) for end in ("-a", "-b", "-a")]
    for path in paths:
        assert path.is_dir()
        assert len(os.fsencode(path.name)) < 200
    assert len({path.name for path in paths}) == 3
    a, b, again = (path.name.rpartition("-")[0] for path in paths)
    assert a == again != b
    assert a.startswith(model[:20])
    assert a.endswith("-a") and b.endswith("-b")  # the end of a path says most
    assert last_path(model, LONG[name] + "-a") == paths[2]


def test_runs_that_begin_at_once_get_directories_of_their_own(monkeypatch):
    """All look before any has made its own."""
    everybody = threading.Barrier(5, timeout=60)
    look = directory._last

    def look_together(stem):
        number = look(stem)
        everybody.wait()
        return number

    monkeypatch.setattr(directory, "_last", look_together)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(new_path("lenet", "d"))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in found) == [f"lenet-d-{i}" for i in range(1, 6)]


def test_nothing_to_resume_is_told():
    with pytest.raises(CheckpointError, match=r"^resume: found no runs.lenet-d-NUMBER, expected"):
        last_path("lenet", "d")


def test_a_directory_that_another_process_writes_to_is_refused(trainer, tmp_path):
    run = trainer(tmp_path / "run")
    run.save()
    program = (
        "import sys; from lowerconv.train.directory import RunDirectory; from pathlib import Path\n"
        f"getattr(RunDirectory(Path({str(tmp_path / 'run')!r})), sys.argv[1])()\n"
    )
    for what in ("resume", "begin"):
        if what == "begin":  # as if both had looked before the first one saved
            (tmp_path / "run" / LAST).unlink()
        command = [sys.executable, "-c", program, what]
        other = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"BusyError: {tmp_path / 'run'}: process {os.getpid()} on" in other.stderr
    run._checkpointer.directory.close()
    command = [sys.executable, "-c", program, "begin"]
    subprocess.run(command, check=True)


def test_a_run_that_cannot_begin_leaves_the_directory_to_others(trainer, tmp_path):
    trainer(tmp_path / "run").save()
    with pytest.raises(CheckpointError, match="was trained with"):
        trainer(tmp_path / "run", resume=True, seed=9)
    assert not (tmp_path / "run" / ".lock").exists()


def test_who_takes_over_does_not_wait_for_the_lock_of_the_dead(tmp_path, monkeypatch):
    def busy(lock):
        raise BusyError(f"{lock}: busy")

    monkeypatch.setattr(directory.DirectoryLock, "acquire", busy)
    RunDirectory(tmp_path / "run").take_over()
    assert (tmp_path / "run").is_dir()
