"""What tests of several folders share."""

import atexit
import faulthandler
import gc
import gzip
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from .long import LONG, VARIABLE

# How long an example takes, or its invention, is up to whatever else the machine does.
hypothesis.settings.register_profile(
    "lowerconv", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lowerconv")

# Neither what the user has tuned nor what is cached may change what is tested; every process that
# a test starts shares the compiled kernels of this run.
if "LOWERCONV_CACHE_DIR" not in os.environ:
    os.environ["LOWERCONV_CACHE_DIR"] = tempfile.mkdtemp(prefix="lowerconv-tests-")
    atexit.register(shutil.rmtree, os.environ["LOWERCONV_CACHE_DIR"], ignore_errors=True)

for _name in ("LOWERCONV_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.pop(_name, None)  # tests say themselves how many threads there are

# A background job of a shell ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked as long, unless LOWERCONV_LONG=1."""
    if LONG:
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason=f"long: {VARIABLE}=1"))


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what stays: it would look at every test, each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    """Return a generator of random numbers, whose seed a failed test has printed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


WATCHDOG = 300  # seconds: a hundred times what the slowest of those tests takes


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write bytes as an idx file, compressed if its name says so."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture(scope="session")
def tiny_fashion(tmp_path_factory) -> Path:
    """Return a directory with 203 + 52 images that can be learnt, in Fashion-MNIST's files."""
    rng = np.random.default_rng(7)
    directory = tmp_path_factory.mktemp("tiny-fashion")
    for part, count in (("train", 203), ("t10k", 52)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            row, column = 2 + label // 5 * 12, 2 + label % 5 * 5
            image[row : row + 10, column : column + 4] += 180
        write_idx(directory / f"{part}-images-idx3-ubyte", images)
        write_idx(directory / f"{part}-labels-idx1-ubyte.gz", labels)
    return directory


@pytest.fixture
def watchdog(pytestconfig):
    """End the run, and tell where every thread is, if a test hangs in code that never returns."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        stderr = os.dup(2)  # the real one: what is captured would be lost
    faulthandler.dump_traceback_later(WATCHDOG, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


def clean_environment() -> dict[str, str]:
    """Return the environment without what a launcher of this very process has put there.

    Nor are lines of several ranks to be mixed, as they are where each is written in two pieces.
    """
    prefixes = ("PMI", "OMPI_", "MPI_", "HYDRA_", "PRTE_", "SLURM_", "PYTHONUNBUFFERED")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    # Open MPI refuses root and more ranks than cores unless told so; MPICH ignores these.
    return kept | {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }


@pytest.fixture(scope="session")
def run_lowerconv() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs ``python -m lowerconv ARGUMENTS``, a single process."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "lowerconv", *map(str, arguments)]
        return subprocess.run(
            command, env=clean_environment(), cwd=cwd, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.fixture
def run_here(capsys, monkeypatch) -> Callable[..., subprocess.CompletedProcess]:
    """Return a function as `run_lowerconv`, whose command runs in this process: in no time."""
    from lowerconv.cli.main import main

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
        words = [str(argument) for argument in arguments]
        capsys.readouterr()
        with monkeypatch.context() as here:
            if cwd is not None:
                here.chdir(cwd)
            try:
                status = main(words)
            except SystemExit as end:  # argparse's
                status = end.code
        told = capsys.readouterr()
        return subprocess.CompletedProcess(words, status, told.out, told.err)

    return run


def mpi_launcher() -> str:
    """Return the mpiexec that belongs to this Python, else the one on the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        pytest.fail('no mpiexec: the tests need an MPI runtime, pip install ".[mpi]"')
    return launcher


@pytest.fixture(scope="session")
def mpiexec() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs ``python ARGUMENTS`` on some ranks."""

    def run(
        ranks: int,
        *arguments: object,
        timeout: float = 300,
        cwd: Path | None = None,
        options: Sequence[str] = (),
    ) -> subprocess.CompletedProcess:
        command = [mpi_launcher(), "-n", str(ranks), *options, sys.executable]
        return subprocess.run(
            [*command, *map(str, arguments)],
            env=clean_environment(),
            cwd=cwd,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def launch() -> Callable[..., subprocess.Popen]:
    """Return a function that starts ``python ARGUMENTS`` on some ranks; all print to its stdout."""

    def start(ranks: int, *arguments: object) -> subprocess.Popen:
        return subprocess.Popen(
            [mpi_launcher(), "-n", str(ranks), sys.executable, *map(str, arguments)],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
