"""Containers and Slurm nodes: no home, no entry for the user, a package that cannot be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lowerconv
from lowerconv.cli.main import main

from .conftest import clean_environment, mpi_launcher
from .long import long_but

PACKAGE = Path(lowerconv.__file__).parent
CURE = "LOWERCONV_CACHE_DIR names another directory"
UID = 12345
# What Python imports first: the system does not know who we are.
NOBODY = """
import pwd
def unknown(*arguments):
    raise KeyError("getpwuid(): uid not found: 12345")
pwd.getpwuid = pwd.getpwnam = unknown
"""
CONVOLUTION = """
import warnings
import numpy as np
import lowerconv as lc, lowerconv.nn, lowerconv.train
x, w = np.ones((1, 4, 8, 8), np.float32), np.ones((8, 4, 3, 3), np.float32)
y = lc.conv2d(x, w)
assert y.shape == (1, 8, 6, 6) and (y == 36).all()
print("right")
"""
# By what is soonest compiled.
DIRECT = CONVOLUTION.replace("lc.conv2d(x, w)", 'lc.conv2d(x, w, algorithm="direct")')
COMMANDS = """
from lowerconv.cli.main import main
assert main(["tune", "--x", "1,4,8,8", "--w", "8,4,3,3"]) == 1
assert main(["models"]) == 0 and main(["info"]) == 0
"""
# The first call that wants to keep something ends; whatever follows does not know of it.
ERRORS = """
import warnings
warnings.simplefilter("error", RuntimeWarning)
import numpy as np
import lowerconv as lc
x, w = np.ones((1, 4, 8, 8), np.float32), np.ones((8, 4, 3, 3), np.float32)
ended = 0
for algorithm in ("direct", "lowering"):
    try:
        y = lc.conv2d(x, w, algorithm=algorithm)
    except RuntimeWarning as warning:
        assert "cannot be written" in str(warning), warning
        ended += 1
        y = lc.conv2d(x, w, algorithm=algorithm)
    assert (y == 36).all()
print("ended", ended)
"""


def copy_unwritable(target: Path) -> None:
    """Copy the package with a file where belongs what is compiled: not even root can write it."""
    shutil.copytree(PACKAGE, target / "lowerconv", ignore=shutil.ignore_patterns("__pycache__"))
    for directory in {path.parent for path in (target / "lowerconv").rglob("*.py")}:
        (directory / "__pycache__").touch()


def homeless(**more: str) -> dict[str, str]:
    """Return this process's environment without what tells where files may be written."""
    told = ("HOME", "XDG_CACHE_HOME", "LOWERCONV_CACHE_DIR", "NUMBA_CACHE_DIR", "PYTHONPATH")
    return {k: v for k, v in clean_environment().items() if k not in told} | more


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    site = tmp_path_factory.mktemp("site")
    copy_unwritable(site)
    (site / "sitecustomize.py").write_text(NOBODY)
    return site


@pytest.mark.skipif(sys.platform == "win32", reason="Windows always knows a user's directories")
class TestNoHome:
    @pytest.fixture
    def run(self, site, tmp_path):
        def run(*arguments, **more) -> subprocess.CompletedProcess:
            done = subprocess.run(
                [sys.executable, *arguments],
                env=homeless(PYTHONPATH=str(site), **more),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=300,
            )
            print(done.stdout, done.stderr)
            return done

        return run

    @pytest.mark.parametrize(
        "more",
        long_but(
            [{}],
            [
                {},
                {"HOME": "/dev/null/none"},
                {"NUMBA_CACHE_DIR": "/dev/null/none", "TMPDIR": "/dev/null/none"},
                {"LOWERCONV_CACHE_DIR": "/dev/null/none", "PYTHONDONTWRITEBYTECODE": "1"},
            ],
        ),
        ids=str,
    )
    def test_convolution(self, run, tmp_path, more):
        done = run("-c", CONVOLUTION, **more)
        assert (done.returncode, done.stdout) == (0, "right\n")
        assert done.stderr.count("cannot be written") == 1
        assert done.stderr.count(CURE) == 1
        assert "kept for later" not in done.stderr
        assert list(tmp_path.iterdir()) == []  # not a directory named ~, for one

    def test_the_cure(self, run, tmp_path):
        for _ in range(2):
            done = run("-c", DIRECT, LOWERCONV_CACHE_DIR=str(tmp_path))
            assert (done.returncode, done.stdout) == (0, "right\n")
            assert "cannot be written" not in done.stderr
        assert "compiled" not in done.stderr

    def test_warnings_as_errors(self, run):
        done = run("-c", ERRORS)
        assert (done.returncode, done.stdout) == (0, "ended 1\n")

    def test_commands(self, run):
        """One after the other; to tune is refused before anything is measured."""
        done = run("-c", COMMANDS)
        assert done.returncode == 0
        said = " ".join(done.stdout.split())
        assert "Set LOWERCONV_CACHE_DIR to a directory that can be written" in said
        (line,) = done.stderr.splitlines()
        assert line.startswith("lowerconv: error: ")
        assert CURE in line


def test_a_full_disk_is_told_after_tuning(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("lowerconv.cli.tune.all_kept", lambda: False)
    monkeypatch.setattr("lowerconv.cli.tune._measure", lambda *layer: ("direct", "-", "-", "-"))
    assert main(["tune", "--x", "1,4,8,8", "--w", "8,4,3,3"]) == 0
    assert "not all of it could be remembered in" in capsys.readouterr().out


def test_runs_that_cannot_be_written_are_told_before_training(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    monkeypatch.setattr("lowerconv.train.trainer.Trainer.fit", None)
    assert main(["train"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("lowerconv: error: runs")
    assert "--out names another directory" in error


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs a system with users")
class TestFrontDoor:
    """The README's first command as a user whom nobody knows, with one directory to write to."""

    @pytest.fixture
    def as_nobody(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("only root can become another user")
        # May read what is root's, the interpreter for one, and write nothing of it.
        become = [
            *("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups"),
            *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
        ]
        probe = subprocess.run([*become, sys.executable, "-c", ""], capture_output=True, text=True)
        if probe.returncode:
            pytest.skip(f"setpriv cannot make root another user here: {probe.stderr}")
        # With the loops that are compiled, which may be read; code that is emitted is not there.
        others_write = shutil.ignore_patterns("*.partial", "*.pyc.*")
        shutil.copytree(PACKAGE, tmp_path / "site" / "lowerconv", ignore=others_write)
        (tmp_path / "own").mkdir()
        os.chown(tmp_path / "own", UID, UID)

        def run(*command, cwd="own") -> subprocess.CompletedProcess:
            environment = homeless(PYTHONPATH=str(tmp_path / "site"), TMPDIR=str(tmp_path / "own"))
            done = subprocess.run(
                [*become, *command],
                env=environment,
                cwd=tmp_path / cwd,
                capture_output=True,
                text=True,
                timeout=600,
            )
            print(done.stdout, done.stderr)
            return done

        return run

    def test_train(self, as_nobody, tmp_path):
        command = [mpi_launcher(), "-n", "2", sys.executable, "-m", "lowerconv", "train"]
        before = set((tmp_path / "site").rglob("*"))
        done = as_nobody(*command, "--epochs", "1")
        assert done.returncode == 0
        assert "test accuracy" in done.stdout
        assert done.stderr.count(CURE) == 1  # of both ranks
        (run,) = (tmp_path / "own" / "runs").iterdir()
        assert {path.name for path in run.iterdir()} >= {"best.safetensors", "metrics.csv"}
        assert set((tmp_path / "site").rglob("*")) == before

    def test_where_it_cannot_be_written(self, as_nobody):
        done = as_nobody(sys.executable, "-m", "lowerconv", "train", cwd=".")
        assert done.returncode == 1
        assert "--out names another directory" in done.stderr


def test_from_a_zip_archive(tmp_path):
    archive = shutil.make_archive(str(tmp_path / "site"), "zip", PACKAGE.parent, PACKAGE.name)
    code = (
        DIRECT
        + f"""
from lowerconv.bench import cases, published
assert len(cases.networks()) == 8 and cases.layers("googlenet") and published.alexnet()
assert lc.__file__.startswith({archive!r})
from lowerconv.codegen.sources import source_hash
assert source_hash("lowerconv.codegen.packing", "lowerconv.codegen")
"""
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=homeless(PYTHONPATH=archive, LOWERCONV_CACHE_DIR=str(tmp_path / "cache")),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        print(done.stderr)
        assert (done.returncode, done.stdout) == (0, "right\n")
    assert done.stderr == ""


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_without_docstrings_and_assertions(flag, tmp_path):
    """Every module is imported, and every command describes itself."""
    code = """
import contextlib, importlib, io, pkgutil
import lowerconv
for module in pkgutil.walk_packages(lowerconv.__path__, "lowerconv."):
    if module.name != "lowerconv.__main__":
        try:
            importlib.import_module(module.name)
        except ImportError as error:  # an optional package is not there
            if "pip install 'lowerconv[" not in str(error):
                raise
from lowerconv.cli.main import main
commands = ("train", "slurm", "timeline", "evaluate", "predict", "models", "pack", "tune", "bench")
for command in (*commands, "info"):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            main([command, "--help"])
        except SystemExit as end:
            assert end.code == 0
    if len(printed.getvalue()) < 100:
        raise RuntimeError(command)
import numpy as np
from lowerconv import nn
y = nn.MaxPool2d(2).compile((1, 1, 4, 4))(np.arange(16, dtype="f4").reshape(1, 1, 4, 4))
if y.ravel().tolist() != [5, 7, 13, 15]:
    raise RuntimeError(y)
"""
    done = subprocess.run(
        [sys.executable, flag, "-c", code],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a working directory cannot be deleted")
def test_from_a_directory_that_is_gone(tmp_path):
    gone = tmp_path / "gone"
    code = f"""
import os
os.makedirs({str(gone)!r})
os.chdir({str(gone)!r})
os.rmdir({str(gone)!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code + CONVOLUTION + "from lowerconv.cli.main import main\n"
         "assert main(['models']) == 0 and main(['train']) == 1"],
        env=clean_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--out names another directory" in done.stderr


CLOSED = """
import os, sys
sys.stdout = sys.stderr = None
from lowerconv.cli.main import main
commands = (["models"], ["info"], ["train"], ["predict", "none", "none"], ["train", "--none"])
statuses = []
for command in commands:
    try:
        statuses.append(main(command))
    except SystemExit as end:
        statuses.append(end.code)
os._exit(0 if statuses == [0, 0, 1, 1, 2] else 1)
"""


def test_without_stdout_and_stderr(tmp_path):
    (tmp_path / "runs").touch()  # training has something to tell
    done = subprocess.run(
        [sys.executable, "-c", CLOSED], env=clean_environment(), cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0


def test_the_end_of_all_ranks_without_stdout_and_stderr(monkeypatch):
    from lowerconv.parallel.faults.ending import flush

    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    flush()
