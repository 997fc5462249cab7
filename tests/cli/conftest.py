"""What tests of streams share."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.train import Trainer
from lowerconv.train.progress import Reporter


@pytest.fixture(scope="session")
def lenet(tiny_fashion, tmp_path_factory) -> Path:
    """Return the checkpoint of a network that takes grey images of 28x28."""
    out = tmp_path_factory.mktemp("run")
    Trainer("lenet", f"fashion-mnist:{tiny_fashion}", out, reporter=Reporter(), epochs=1).fit()
    return out / "best.safetensors"


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """Return twelve frames."""
    return np.random.default_rng(5).integers(0, 256, (12, 40, 50, 3), np.uint8)


@pytest.fixture(scope="session")
def folder(pixels, tmp_path_factory) -> Path:
    """Return a folder with these frames."""
    folder = tmp_path_factory.mktemp("frames")
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"f{i}.png")
    return folder


@pytest.fixture
def stdin(monkeypatch) -> Iterator[Callable[[bytes], None]]:
    """Return a function that has stdin give some bytes, then the end."""
    opened = []

    def give(data: bytes) -> None:
        reads, writes = os.pipe()

        def write() -> None:
            with open(writes, "wb") as pipe:
                pipe.write(data)

        opened.append((threading.Thread(target=write), open(reads, "rb")))  # noqa: SIM115
        opened[-1][0].start()
        monkeypatch.setattr(sys, "stdin", opened[-1][1])

    yield give
    for thread, file in opened:
        file.close()
        thread.join()
