"""Runs in bf16 and fp16: they learn, resume exactly, leave out what overflows, and say no."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.divergence import DivergenceError
from lowerconv.nn.optim.loss_scale import FIRST
from lowerconv.train import CheckpointError, Classifier
from lowerconv.train.checkpoint import LAST, load_checkpoint

from ..long import drawn

RECIPES = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "fp16-accumulate-ema": {"precision": "fp16", "accumulate": 3, "ema": 0.8},
    "fp16-adam": {"precision": "fp16", "optimizer": "adam", "lr": 1e-3},
    "bf16-lars": {"precision": "bf16", "optimizer": "lars", "lr": 1.0},
}
recipes = pytest.mark.parametrize("name", RECIPES)


def tensors(run) -> bytes:
    return b"".join(array.tobytes() for array in run.state.tensors().values())


def test_a_run_that_is_resumed_ends_with_the_same_bits(trainer, tmp_path, rng):
    for name in drawn(rng, RECIPES, 3):
        print(name)
        check_resumed(trainer, tmp_path / name, RECIPES[name])


def check_resumed(trainer, tmp_path, recipe):
    unbroken = trainer(tmp_path / "unbroken", epochs=3, **recipe)
    unbroken.fit()
    broken = trainer(tmp_path / "broken", epochs=3, **recipe)
    broken._out_of_patience = lambda: len(broken.history) == 1
    broken.fit()
    given = dict.fromkeys(("epochs", "batch", "lr", "weight_decay", "seed"))
    resumed = trainer(tmp_path / "broken", resume=True, **given)
    assert resumed.settings == unbroken.settings
    resumed.fit()
    assert tensors(resumed) == tensors(unbroken)
    scaled = recipe["precision"] == "fp16"
    assert ("loss_scale" in load_checkpoint(tmp_path / "broken" / LAST).tensors) == scaled


@pytest.mark.parametrize("name", ["bf16", "fp16-accumulate-ema"])
def test_it_learns_and_the_file_knows(trainer, tmp_path, name):
    run = trainer(tmp_path / "half", epochs=4, **RECIPES[name])
    run.fit()
    others = {key: value for key, value in RECIPES[name].items() if key != "precision"}
    whole = trainer(tmp_path / "whole", epochs=4, **others)
    whole.fit()
    np.testing.assert_allclose(run.losses, whole.losses, rtol=0.05, atol=0.01)
    row = run.history[-1]
    found = (row.test_loss, row.test_accuracy)
    if name.endswith("ema"):
        found = (row.ema_loss, row.ema_accuracy)
    classifier = Classifier(tmp_path / "half" / LAST)
    assert classifier.network.precision == RECIPES[name]["precision"]
    assert classifier.evaluate(run.state.test_loader.dataset, 32) == found


def test_what_overflows_is_left_out(trainer, tmp_path):
    """A scale that is too large halves until gradients are finite; weights wait until then."""
    run = trainer(tmp_path, epochs=2, precision="fp16")
    scaling = run.optimizer.scaling
    scaling.state[0] = 2.0**27
    before = {name: p.data.copy() for name, p in run.network.parameters().items()}
    seen = []

    class Looks(nn.LossScale):
        def unscale(self, gradient, team=None):
            good = super().unscale(gradient, team)
            same = all(
                np.array_equal(p.data, before[name]) for name, p in run.network.parameters().items()
            )
            seen.append((good, self.value, same))
            return good

    scaling.__class__ = Looks
    run.fit()
    goods = [good for good, _, _ in seen]
    first = goods.index(True)
    assert first >= 2
    assert not any(goods[:first])
    assert all(same for _, _, same in seen[: first + 1])
    assert [value for _, value, _ in seen[:first]] == [2.0 ** (26 - i) for i in range(first)]
    assert run.optimizer.updates == sum(goods)
    assert all(np.isfinite(p.data).all() for p in run.network.parameters().values())


def test_the_scale_grows_and_falls():
    scaling = nn.LossScale(8.0, good=3)
    gradient = np.array([8.0, -16.0, 4.0], np.float32)
    for _ in range(2):
        part = gradient.copy()
        assert scaling.unscale(part)
        assert np.array_equal(part, gradient / 8)
    assert scaling.state.tolist() == [8, 2]
    scaling.unscale(gradient.copy())
    assert scaling.state.tolist() == [16, 0]
    for bad in (np.inf, -np.inf, np.nan):
        expected = scaling.value / 2
        assert not scaling.unscale(np.array([1, bad, 2] * 1000, np.float32))
        assert scaling.state.tolist() == [expected, 0]
    scaling.state[0] = 1
    with pytest.raises(DivergenceError, match="the loss is not scaled any more"):
        scaling.unscale(np.array([np.nan], np.float32))


def test_a_scaled_loss_needs_all_gradients_at_once():
    network = nn.Linear(3, 2)
    optimizer = nn.SGD(network, 0.1)
    assert not optimizer.whole
    optimizer.scale_loss(nn.LossScale(FIRST))
    assert optimizer.whole
    optimizer.begin_step()
    with pytest.raises(ValueError, match="end: got 0 to 3 of a scaled loss, expected all"):
        optimizer.update(0, 3)


def test_another_precision_is_refused(trainer, tmp_path):
    trainer(tmp_path, precision="bf16").fit()
    with pytest.raises(CheckpointError, match=r"precision 'bf16', not 'fp16'"):
        trainer(tmp_path, resume=True, precision="fp16", epochs=2)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"precision": "int8"}, r"^precision: got 'int8', expected one of"),
        ({"precision": "bf16", "weight_bits": 4}, r"^precision: got 'bf16' with 4-bit weights"),
        ({"precision": "bf16", "parallel": "owt"}, r"^parallel: got 'owt' with precision 'bf16'"),
        ({"precision": "fp16", "parallel": "async"}, r"^parallel: got 'async' with precision 'fp1"),
    ],
)
def test_errors(trainer, tmp_path, changes, text):
    with pytest.raises(ValueError, match=text):
        trainer(tmp_path, **changes)
