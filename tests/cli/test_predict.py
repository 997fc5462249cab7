"""``lowerconv evaluate`` and ``lowerconv predict`` as a user calls them."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.cli.main import main
from lowerconv.data import load
from lowerconv.train import Classifier, Trainer
from lowerconv.train.progress import Reporter


@pytest.fixture(scope="module")
def trained(tiny_fashion, tmp_path_factory) -> Path:
    """Return the checkpoint of a run that kept an average."""
    out = tmp_path_factory.mktemp("run")
    data = f"fashion-mnist:{tiny_fashion}"
    Trainer("lenet", data, out, reporter=Reporter(), epochs=2, ema=0.8).fit()
    return out / "best.safetensors"


@pytest.fixture(scope="module")
def images(tiny_fashion, tmp_path_factory) -> list[Path]:
    """Return test images as files, some of them enlarged."""
    directory = tmp_path_factory.mktemp("images")
    _, test = load(f"fashion-mnist:{tiny_fashion}")
    paths = []
    for i in range(4):
        image = Image.fromarray(test.images[i, 0])
        paths.append(directory / f"{i}.png")
        image.resize((28 + 60 * i, 28 + 60 * i)).save(paths[-1])
    return paths


def test_evaluate_prints_what_training_measured(run_lowerconv, tiny_fashion, trained):
    spec = f"fashion-mnist:{tiny_fashion}"
    run = run_lowerconv("evaluate", trained, "--data", spec)
    assert run.returncode == 0, run.stderr
    loss, accuracy = Classifier(trained).evaluate(load(spec)[1])
    assert f"test accuracy {accuracy:.2%}, loss {loss:.4f}, over 52 images" in run.stdout
    assert run.stdout.endswith("averaged weights\n")


def test_predict_prints_the_top_five(run_lowerconv, trained, images):
    images = [*images, images[0]]  # twice is not once
    run = run_lowerconv("predict", trained, *images)
    assert run.returncode == 0, run.stderr
    blocks = re.findall(r"^(\S.*)\n((?:  .*\n)+)", run.stdout, re.M)
    assert [path for path, _ in blocks] == list(map(str, images))
    classifier = Classifier(trained)
    for path, lines in blocks:
        found = re.findall(r"^ +([\d.]+)%  (.+)$", lines, re.M)
        assert len(found) == 5
        percents = [float(percent) for percent, _ in found]
        assert sorted(percents, reverse=True) == percents
        row = classifier.probabilities(classifier.read(path)[None])[0]
        expected = [classifier.inputs.classes[i] for i in np.argsort(-row)[:5]]
        assert [name for _, name in found] == expected
        assert percents[0] == pytest.approx(100 * row.max(), abs=0.006)


def test_unreadable_images_are_named_and_the_others_predicted(run_here, trained, images, tmp_path):
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    bad = [tmp_path / "broken.png", tmp_path / "text.jpg", tmp_path / "missing.png", tmp_path]
    run = run_here("predict", trained, bad[0], images[0], *bad[1:], images[1])
    assert run.returncode == 1
    errors = [line for line in run.stderr.splitlines() if "error" in line]
    assert len(errors) == 4
    for line, path in zip(errors, bad, strict=True):
        assert line.startswith(f"lowerconv: error: {path}: image: found ")
    assert [line for line in run.stdout.splitlines() if not line.startswith(" ")] == [
        str(images[0]),
        str(images[1]),
    ]
    assert "Traceback" not in run.stderr


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage before it gives up
def test_damaged_images_are_named_or_predicted(trained, tmp_path, capsys):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    paths = []
    for form in ("png", "jpeg", "bmp", "gif", "webp", "tiff"):
        Image.fromarray(pixels).save(tmp_path / f"whole.{form}")
        whole = (tmp_path / f"whole.{form}").read_bytes()
        for i in range(200):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 1, 1, 10))):
                # Headers are where damage does most.
                data[rng.randrange(min(len(data), rng.choice((64, 4096))))] = rng.randrange(256)
            paths.append(tmp_path / f"{i}.{form}")
            paths[-1].write_bytes(data[: rng.randrange(len(data))] if i % 10 == 0 else data)
    capsys.readouterr()
    assert main(["predict", str(trained), *map(str, paths)]) == 1
    told = capsys.readouterr()
    print(f"seed {seed}")
    lines = told.out.splitlines()
    predicted = lines[::6]
    percents = [float(line.split("%")[0]) for i, line in enumerate(lines) if i % 6]
    assert all(0 <= percent <= 100 for percent in percents)
    errors = [line for line in told.err.splitlines() if line.startswith("lowerconv: error: ")]
    refused = [
        line.removeprefix("lowerconv: error: ").split(": image: found ")[0] for line in errors
    ]
    assert sorted(predicted + refused) == sorted(map(str, paths))


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_bad_checkpoints_are_named(run_here, trained, images, tmp_path, command):
    damaged = bytearray(trained.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    rest = images[:1] if command == "predict" else ("--data", "fashion-mnist")
    for path, message in (
        (tmp_path / "damaged", "does not have the checksum stored"),
        (tmp_path / "none", "no checkpoint there"),
        (trained.parent, f"a directory, expected a file such as {trained}"),
        (images[0], "not a readable safetensors file"),
    ):
        run = run_here(command, path, *rest)
        assert run.returncode == 1
        (line,) = run.stderr.splitlines()
        assert line.startswith(f"lowerconv: error: {path}: ")
        assert message in line


def test_evaluate_refuses_other_data(run_here, trained, tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "cat").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / part / "cat" / "1.png")
    run = run_here("evaluate", trained, "--data", f"folder:{tmp_path}")
    assert run.returncode == 1
    assert "has image_shape (3, 32, 32), expected (1, 28, 28), which" in run.stderr
