"""Runs that begin with the weights of another."""

import numpy as np
import pytest

from lowerconv.train import CheckpointError
from lowerconv.train.checkpoint import BEST, LAST, load_checkpoint, state


def weights(run) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in state(run.network).items()}


@pytest.mark.parametrize("recipe", [{}, {"ema": 0.9}, {"weight_bits": 8}], ids=str)
def test_the_weights_are_those_of_the_other_run(trainer, tmp_path, recipe):
    before = trainer(tmp_path / "before", **recipe)
    before.fit()
    averaged = before.average.values if before.average else None
    expected = averaged or weights(before)
    after = trainer(tmp_path / "after", init_from=tmp_path / "before" / LAST, seed=2)
    for name, array in weights(after).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert not after.history


@pytest.mark.parametrize("bits", [{"weight_bits": 4, "activation_bits": 4}, {"ternary_weights": 1}])
def test_fewer_bits_begin_with_trained_weights(trainer, tmp_path, bits):
    before = trainer(tmp_path / "before", epochs=4)
    before.fit()
    bits = {name: bool(value) if value == 1 else value for name, value in bits.items()}
    path = tmp_path / "before" / BEST
    after = trainer(tmp_path / "after", init_from=path, lr=1e-4, **bits)
    saved = load_checkpoint(path).tensors
    found = weights(after)
    shared = [name for name in found if not name.endswith("step")]
    assert len(shared) < len(found)
    for name in shared:
        np.testing.assert_array_equal(found[name], saved[name], err_msg=name)
    steps = [float(found[name][0]) for name in found if name.endswith("weight_step")]
    assert steps
    assert all(0 < step < 1 for step in steps)
    after.fit()
    assert after.history[0].test_accuracy > 0.85
    resumed = trainer(tmp_path / "after", resume=True, lr=1e-4, **bits)
    resumed.fit()
    for name, array in weights(after).items():
        np.testing.assert_array_equal(array, weights(resumed)[name], err_msg=name)


def test_mistakes(trainer, tmp_path):
    trainer(tmp_path / "run").save()
    path = tmp_path / "run" / LAST
    with pytest.raises(ValueError, match=r"^init_from: got .* with resume, expected one of them"):
        trainer(tmp_path / "run", resume=True, init_from=path)
    with pytest.raises(TypeError, match=r"^init_from: got 3, expected the path of a checkpoint"):
        trainer(tmp_path / "other", init_from=3)
    with pytest.raises(CheckpointError, match="no checkpoint there"):
        trainer(tmp_path / "other", init_from=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"run.*: has tensor .* which the network has not"):
        trainer(tmp_path / "other", "cifar10_quick", init_from=path)
    assert not (tmp_path / "other").exists()


def test_ranks_of_the_command_line(run_here, mpiexec, tiny_fashion, tmp_path):
    """Rank 0 alone reads the file; a learning rate of 0 leaves its weights as they are."""
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 1)
    done = run_here(*arguments, "--out", tmp_path / "before")
    assert done.returncode == 0, done.stderr
    more = ("--lr", 0, "--init-from", tmp_path / "before" / LAST, "--out", tmp_path / "after")
    many = mpiexec(2, "-m", "lowerconv", *arguments, "--seed", 3, *more)
    assert many.returncode == 0, many.stderr
    before, after = (load_checkpoint(tmp_path / name / LAST) for name in ("before", "after"))
    assert before.tensors.keys() == after.tensors.keys()
    for name, tensor in before.tensors.items():
        if "/" not in name:
            np.testing.assert_array_equal(after.tensors[name], tensor, err_msg=name)
