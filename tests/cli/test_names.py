"""Names from outside: whatever they hold, they are printed, and end nothing."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.console import PlainConsole
from lowerconv.printable import drawable, printable, printable_lines
from lowerconv.train import Trainer
from lowerconv.train.metrics import draw_curves
from lowerconv.train.progress import ConsoleReporter, Reporter

from ..conftest import clean_environment
from ..long import long_but, long_rows_but

posix = pytest.mark.skipif(os.name != "posix", reason="names that are no UTF-8, and pipes")
ENVIRONMENTS = {
    "utf-8": {"LC_ALL": "C.UTF-8"},
    "c": {"LC_ALL": "C"},
    "no-coercion": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "narrow": {"COLUMNS": "1", "NO_COLOR": "1"},
    "c-narrow": {"LC_ALL": "C", "COLUMNS": "1", "NO_COLOR": "1"},
}
CLASSES = [b"[bold]", b"caf\xe9", b"dog\n\x1b[31m:smile:", "katze \u202e".encode()]


def lowerconv(*words, cwd, **options):
    """Return a run of the command; arguments may be bytes."""
    command = [sys.executable, "-m", "lowerconv", *words]
    environment = clean_environment() | options.pop("env", {})
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def strange(tmp_path_factory) -> bytes:
    """Return a folder of images, strange in all its names."""
    folder = os.fsencode(tmp_path_factory.mktemp("strange")) + b"/M\xfcnchen [red[/] $x :dog:"
    for number, name in enumerate(CLASSES):
        os.makedirs(folder + b"/" + name)
        for i in range(5):
            pixels = np.full((28, 28, 3), 50 * number + i, np.uint8)
            Image.fromarray(pixels).save(os.fsdecode(folder + b"/" + name + b"/%d\n.png" % i))
    return folder


@posix
@pytest.mark.parametrize("name", long_but(["c-narrow"], ENVIRONMENTS))
def test_strange_names_train_and_predict(strange, tmp_path, name):
    words = [b"--data", b"folder:" + strange + b"?size=28", b"--epochs", b"1"]
    trace = [b"--timeline", b"t.json", b"--timeline-first", b"0"]
    settings = {"cwd": tmp_path, "env": ENVIRONMENTS[name]}
    run = lowerconv("train", *words, *trace, **settings)
    assert run.returncode == 0, run.stderr
    shown = printable(os.fsdecode(strange)).encode()
    assert b"on folder:" + shown + b"?size=28: 16 training" in run.stdout
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.isprintable()
    images = [strange + b"/caf\xe9/1\n.png", b"away.png", strange + b"/" + CLASSES[2] + b"/0\n.png"]
    predicted = lowerconv("predict", out / "best.safetensors", *images, **settings)
    assert predicted.returncode == 1
    assert b"Traceback" not in predicted.stderr
    assert b"error: away.png" in predicted.stderr
    lines = predicted.stdout.decode("ascii").splitlines()
    assert len(lines) == 10  # a name and four classes, of two images
    found = [printable(os.fsdecode(image)) for image in (images[0], images[2])]
    assert [lines[0], lines[5]] == found
    encoding = "ascii" if name == "no-coercion" else "utf-8"  # of names of files
    classes = {printable(word.decode(encoding, "surrogateescape")) for word in CLASSES}
    assert {line.partition("%  ")[2] for line in lines if line.startswith(" ")} == classes
    timeline = lowerconv("timeline", "t.json", **settings)
    assert timeline.returncode == 0, timeline.stderr
    assert b"".join(shown.split()) in b"".join(timeline.stdout.split())


@posix
def test_a_job_script_has_the_very_bytes(tmp_path):
    words = ["--nodes", "1", "--mpi", "pmix"]
    more = ["--", "train", "--data", b"folder:M\xfcnchen"]
    printed = lowerconv("slurm", *words, *more, cwd=tmp_path, env=ENVIRONMENTS["ascii"])
    assert b"folder:M\xfcnchen" in printed.stdout
    written = lowerconv("slurm", *words, "-o", "job.sh", *more, cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "job.sh").read_bytes() == printed.stdout


@posix
@pytest.mark.parametrize(
    ("command", "unbuffered"),
    long_rows_but(
        [0, 3, 4, 7],
        product((["models"], ["info"], ["train", "--help"], ["--version"]), ("", "1")),
    ),
)
def test_nobody_who_reads_is_no_error(tmp_path, command, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run(
        [sys.executable, "-m", "lowerconv", *command],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=clean_environment() | {"PYTHONUNBUFFERED": unbuffered},
        cwd=tmp_path,
    )
    os.close(writing)
    # argparse passes over errors of what it prints, as far as that is written at once.
    assert run.returncode in ((0, 141) if command[-1].startswith("--") else (141,))
    assert run.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_told(tmp_path):
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "lowerconv", "models"]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.count(b"No space left on device") == 1
    assert b"Traceback" not in run.stderr


@posix
def test_training_goes_on_when_nobody_reads(tiny_fashion, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    words = ["train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", "1", "--out", "run"]
    run = subprocess.run(
        [sys.executable, "-m", "lowerconv", *words],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        cwd=tmp_path,
    )
    os.close(writing)
    assert run.stderr.count(b"nobody reads what is printed any more") == 1
    assert b"Traceback" not in run.stderr
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_a_reporter_prints_what_its_console_lacks_escaped(tmp_path):
    with open(tmp_path / "said", "w", encoding="ascii") as file:
        ConsoleReporter(PlainConsole(file=file)).say("M\udcfcnchen \u00fc [red] :dog:\nnext\x1b")
    assert (tmp_path / "said").read_text() == "M\\udcfcnchen \\xfc [red] :dog:\nnext\\x1b\n"


def test_escapes():
    assert printable("a\nb\t\x1b\udcff\u202e\u00fc") == r"a\nb\t\x1b\udcff\u202e" + "\u00fc"
    assert printable_lines("a\nb\x07") == "a\nb\\x07"
    assert printable_lines("\u00fc", "ascii") == "\\xfc"
    assert drawable("$x$ \\") == r"\$x\$ " + "\\"


def test_titles_are_no_formulas(tiny_fashion, tmp_path):
    pytest.importorskip("matplotlib")
    data = f"fashion-mnist:{tiny_fashion}"
    run = Trainer("lenet", data, tmp_path / "run", reporter=Reporter(), epochs=1)
    history = run.fit()
    path = Path(tmp_path / "curves.png")
    assert draw_curves(path, history, "$\\frac{$ \udcfc")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_tables_are_never_cut_off(tmp_path):
    run = lowerconv("models", cwd=tmp_path, env={"COLUMNS": "20", "PYTHONIOENCODING": "utf-8"})
    assert "\u2026" not in run.stdout.decode()
    assert "25,557,032" in run.stdout.decode()
