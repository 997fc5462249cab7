"""Checkpoints: whole or refused, whatever happens to the file."""

import json
import random
import re

import numpy as np
import pytest

from lowerconv import files
from lowerconv.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)


def example() -> Checkpoint:
    rng = np.random.default_rng(5)
    tensors = {
        "0.weight": rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "velocity.0.weight": rng.standard_normal((4, 3, 2, 2)).astype(np.float32),
        "0.bias": np.array([np.nan, np.inf, -0.0, 1e-45], np.float32),
    }
    return Checkpoint(tensors, {"history": [{"epoch": 1, "loss": 0.1}], "settings": {"seed": 3}})


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.state == expected.state
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].tobytes() == tensor.tobytes()  # bit for bit, NaN included


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example())
    assert_same(load_checkpoint(path), example())
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_damage_is_always_noticed(tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example())
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        kind = rng.choice(["flip", "cut", "extend", "swap"])
        at = rng.randrange(len(whole))
        if kind == "flip":
            damaged[at] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del damaged[at:]
        elif kind == "extend":
            damaged += rng.randbytes(rng.randrange(1, 50))
        else:
            damaged[at] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            assert str(path) in str(error)
        else:  # the damage hit nothing that counts, such as white space in the header
            assert_same(loaded, example())


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8, None])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "c.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        load_checkpoint(path)


def test_safetensors_of_others_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match="'format' is None"):
        load_checkpoint(tmp_path / "c.safetensors")


def test_numbers_that_numpy_has_not_are_refused(tmp_path):
    for dtype, size in (("F8_E4M3", 1), ("F8_E5M2", 1), ("BF16", 2)):
        tensor = {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}
        header = json.dumps({"w": tensor}).encode()
        path = tmp_path / f"{dtype}.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2 * size))
        with pytest.raises(CheckpointError, match=rf"{dtype}\.safetensors: "):
            load_checkpoint(path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch, failing):
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, example())

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, Checkpoint({}, {}))
    monkeypatch.undo()
    assert_same(load_checkpoint(path), example())
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
