"""What a resumed run may change: it is said; what would change the result silently is refused."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import Dataset, load, pack
from lowerconv.nn import BatchNorm2d, Conv2d, Flatten, Linear, Sequential
from lowerconv.parallel.options import ParallelOptions
from lowerconv.train import CheckpointError
from lowerconv.train.checkpoint import LAST, Checkpoint, load_checkpoint, save_checkpoint


def tensors(run) -> bytes:
    return b"".join(array.tobytes() for array in run.state.tensors().values())


def change(out, edit) -> None:
    """Change what the last checkpoint says beside its tensors."""
    checkpoint = load_checkpoint(out / LAST)
    state = json.loads(json.dumps(checkpoint.state))
    edit(state)
    save_checkpoint(out / LAST, Checkpoint(checkpoint.tensors, state))


def said(run) -> list[str]:
    lines: list[str] = []
    run.reporter.say = lines.append
    run.fit()
    return [line for line in lines if line.startswith("resumed: ")]


def test_what_is_not_given_is_as_it_was(trainer, tmp_path):
    recipe = {"optimizer": "adam", "ema": 0.8, "augment": "flip", "patience": 7, "seed": 3}
    unbroken = trainer(tmp_path / "unbroken", epochs=2, lr=0.002, **recipe)
    unbroken.fit()
    trainer(tmp_path / "run", epochs=2, lr=0.002, **recipe).save()
    nothing = dict.fromkeys(("epochs", "batch", "lr", "weight_decay", "seed"))
    resumed = trainer(tmp_path / "run", resume=True, **nothing)
    assert resumed.settings == unbroken.settings
    assert said(resumed) == []
    assert tensors(resumed) == tensors(unbroken)


@pytest.fixture
def copies(tiny_fashion, tmp_path, monkeypatch):
    """Return the spellings of the same data, and a copy elsewhere."""
    monkeypatch.chdir(tiny_fashion.parent)
    shutil.copytree(tiny_fashion, tmp_path / "moved")
    places = [f"{tiny_fashion}/", tiny_fashion.name, f"./{tiny_fashion.name}", tmp_path / "moved"]
    return [f"fashion-mnist:{place}" for place in places]


def test_the_same_images_may_be_elsewhere(trainer, tiny_fashion, copies, tmp_path):
    before = f"fashion-mnist:{tiny_fashion}"
    trainer(tmp_path / "run", epochs=2).save()
    unbroken = trainer(tmp_path / "unbroken", epochs=2)
    unbroken.fit()
    for number, spec in enumerate(copies):
        shutil.copytree(tmp_path / "run", tmp_path / f"{number}", ignore=lambda *_: [".lock"])
        run = trainer(tmp_path / f"{number}", data=spec, epochs=2, resume=True)
        assert said(run) == [f"resumed: data: {before} before, {spec} now: the same images"]
        assert tensors(run) == tensors(unbroken)


def test_shards_of_the_same_images_are_the_same(trainer, tiny_fashion, tmp_path):
    trainer(tmp_path / "run").save()
    pack(f"fashion-mnist:{tiny_fashion}", tmp_path / "shards")
    run = trainer(tmp_path / "run", data=f"shards:{tmp_path / 'shards'}", resume=True)
    assert said(run)[0].endswith("the same images")


def changed(part, what):
    """Return data sets that differ in a part from those of the embedded set, with its name."""
    sets = list(load("fashion-mnist"))
    old = sets[part]
    images, labels = old.images.copy(), old.labels.copy()
    if what == "pixel":
        images[0, 0, 0, 0] ^= 255
    elif what == "label":
        labels[5] = (labels[5] + 1) % 10
    elif what == "fewer":
        images, labels = images[:-1], labels[:-1]
    elif what == "order":  # neither mean nor deviation tells
        images = np.ascontiguousarray(images[::-1])
    sets[part] = Dataset(old.name, images, labels, old.classes)
    return tuple(sets)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("what", ["pixel", "label", "fewer", "order"])
def test_other_images_of_the_same_name_are_refused(trainer, tmp_path, part, what):
    trainer(tmp_path, data=load("fashion-mnist")).save()
    name = ["training", "test"][part]
    with pytest.raises(CheckpointError, match=rf"was trained with .*{name} images: .*, not "):
        trainer(tmp_path, data=changed(part, what), resume=True)
    assert trainer(tmp_path, data=load("fashion-mnist"), resume=True).settings


def test_all_that_is_refused_is_named_with_both_values(trainer, tmp_path):
    trainer(tmp_path).save()
    with pytest.raises(CheckpointError) as caught:
        trainer(tmp_path, resume=True, seed=5, lr=0.5, augment="flip")
    assert str(caught.value) == (
        f"{tmp_path / LAST}: was trained with lr 0.02, not 0.5; seed 1, not 5; augment None, not "
        "'flip'"
    )


SCHEDULES = {
    "constant": ({"schedule": "constant"}, "schedule constant goes on, learning rate 0.02"),
    "step": (
        {"schedule": "step", "milestones": (1,)},
        "schedule step goes on, learning rate 0.002",
    ),
    "cosine": ({}, "schedule cosine depends on it, learning rate 0.01809 in epoch 2, which would"),
    "poly": ({"schedule": "poly"}, "schedule poly depends on it, learning rate"),
    "usual-milestones": ({"schedule": "step"}, "schedule step depends on it, learning rate"),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_more_epochs_go_on_and_tell_the_learning_rate(trainer, tmp_path, name):
    recipe, says = SCHEDULES[name]
    epochs = 3 if name in ("cosine", "poly", "usual-milestones") else 1
    if epochs == 3:  # broken off after one
        run = trainer(tmp_path / "run", epochs=3, **recipe)
        run.save()
        run._out_of_patience = lambda: len(run.history) == 1
        run.fit()
    else:
        trainer(tmp_path / "run", epochs=1, **recipe).fit()
    resumed = trainer(tmp_path / "run", resume=True, epochs=5, **recipe)
    (line,) = said(resumed)
    assert line.startswith(f"resumed: epochs: {epochs} before, 5 now: {says}"), line
    assert len(resumed.history) == 5
    if epochs == 1:  # nothing in the first epoch depends on how many there are
        whole = trainer(tmp_path / "whole", epochs=5, **recipe)
        whole.fit()
        assert tensors(resumed) == tensors(whole)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_complete_run_says_so_and_stays_as_it_is(trainer, tmp_path, epochs):
    trainer(tmp_path, epochs=2).fit()
    before = (tmp_path / LAST).read_bytes()
    run = trainer(tmp_path, epochs=epochs, resume=True)
    lines = said(run)
    assert lines[-1] == f"resumed: complete: 2 epochs are done, of {epochs}"
    assert len(run.history) == 2
    assert (tmp_path / LAST).read_bytes() == before
    assert not (tmp_path / ".lock").exists()


def test_another_algorithm_and_patience_are_said(trainer, tmp_path):
    trainer(tmp_path, epochs=2).save()
    run = trainer(tmp_path, resume=True, epochs=2, algorithm="direct", patience=2, workers=2)
    assert said(run) == [
        "resumed: patience: None before, 2 now: when to stop",
        "resumed: algorithm: auto before, direct now: the same to rounding",
    ]


def test_another_strategy_is_said(trainer, tmp_path):
    trainer(tmp_path).save()
    run = trainer(tmp_path, resume=True, parallel="owt")
    assert said(run) == ["resumed: parallel: data before, owt now: the same to rounding"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "async"}, r"strategy 'data', not 'async'; staleness 0, not 1"),
        ({"strategy": "owt", "owt_updates": 3, "owt_chunks": 3}, "owt_updates 1, not 3"),
        ({"wire": "bf16"}, "was trained with wire 'float32', not 'bf16'"),
    ],
    ids=str,
)
def test_ways_to_share_that_learn_something_else_are_refused(trainer, tmp_path, options, says):
    trainer(tmp_path).save()
    with pytest.raises(CheckpointError, match=says):
        trainer(tmp_path, resume=True, parallel=ParallelOptions(**options))


@pytest.mark.parametrize("synchronized", [True, False])
def test_other_ranks_are_said(trainer, tmp_path, synchronized):
    def network():
        return Sequential(Conv2d(1, 2, 5, stride=4), BatchNorm2d(2), Flatten(), Linear(72, 10))

    trainer(tmp_path, network(), sync_batch_norm=synchronized).save()
    change(tmp_path, lambda state: state["work"].update(ranks=4))
    (line,) = said(trainer(tmp_path, network(), resume=True, sync_batch_norm=synchronized))
    assert line.startswith("resumed: ranks: 4 before, 1 now: ")
    assert ("batch norm sees other shares" in line) == (not synchronized)


def test_checkpoints_of_before_have_no_checksums_which_is_said(trainer, tmp_path, copies):
    unbroken = trainer(tmp_path / "unbroken", epochs=2)
    unbroken.fit()
    trainer(tmp_path / "run", epochs=2).save()

    def forget(state):
        del state["images"], state["work"]

    change(tmp_path / "run", forget)
    run = trainer(tmp_path / "run", epochs=2, resume=True, data=copies[0])
    told = said(run)
    assert [line.split(":")[1] for line in told] == [" data", " images"]
    assert "no checksums" in told[1]
    assert tensors(run) == tensors(unbroken)
    change(tmp_path / "run", forget)
    with pytest.raises(CheckpointError, match="mean"):
        trainer(tmp_path / "run", resume=True, data=load("fashion-mnist"))


@pytest.mark.skipif(os.name != "posix", reason="names that are no UTF-8")
def test_classes_that_are_no_utf_8_come_back(trainer, tmp_path):
    names = [b"caf\xe9", b"dog\n", "katze \u202e".encode()]
    folder = os.fsencode(tmp_path) + b"/M\xfcnchen"
    for number, name in enumerate(names):
        os.makedirs(folder + b"/" + name)
        for i in range(5):
            pixels = np.full((16, 16, 3), 40 * i + number, np.uint8)
            Image.fromarray(pixels).save(os.fsdecode(folder + b"/" + name + b"/%d.png" % i))
    data = f"folder:{os.fsdecode(folder)}?size=28"
    trainer(tmp_path / "run", data=data).fit()
    saved = load_checkpoint(tmp_path / "run" / LAST).state
    assert saved["settings"]["data"] == data
    assert saved["inputs"]["classes"] == [os.fsdecode(name) for name in names]
    assert said(trainer(tmp_path / "run", data=data, resume=True)) == [
        "resumed: complete: 1 epochs are done, of 1"
    ]
