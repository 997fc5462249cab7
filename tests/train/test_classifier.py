"""Trained networks from checkpoints: the same as in training, or a clear error."""

import random
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lowerconv import nn
from lowerconv.data import DataError, Dataset, load, pack
from lowerconv.train import CheckpointError, Classifier
from lowerconv.train.checkpoint import BEST, LAST


def small() -> nn.Sequential:
    """Return a network whose checkpoint is small enough to be damaged hundreds of times."""
    return nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(49, 10))


@pytest.fixture(scope="module")
def run(trainer, tmp_path_factory):
    run = trainer(tmp_path_factory.mktemp("run"), epochs=3, optimizer="adam", lr=1e-3)
    run.fit()
    return run


def test_it_is_the_network_that_was_tested(run):
    classifier = Classifier(run.out / LAST)
    test = run.state.test_loader.dataset
    row = run.history[-1]
    assert classifier.evaluate(test, 32) == (row.test_loss, row.test_accuracy)
    assert classifier.epoch == 3
    assert not classifier.averaged
    probabilities = classifier.probabilities(test.images)
    assert probabilities.shape == (52, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == test.labels).mean() == row.test_accuracy


def test_threads_share_a_classifier(run):
    classifier = Classifier(run.out / LAST)
    test = run.state.test_loader.dataset
    expected = [classifier.probabilities(test.images[i : i + 3]) for i in range(8)]
    accuracy, wrong = classifier.evaluate(test), []

    def ask(i):
        for _ in range(100):
            if not np.array_equal(classifier.probabilities(test.images[i : i + 3]), expected[i]):
                wrong.append(i)
        if classifier.evaluate(test) != accuracy:
            wrong.append(i)

    threads = [threading.Thread(target=ask, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_best_checkpoint_is_of_the_best_epoch(run):
    best = max(run.history, key=lambda row: row.test_accuracy)
    assert Classifier(run.out / BEST).epoch == best.epoch


def test_images_are_read_as_the_network_takes_them(run, tmp_path):
    classifier = Classifier(run.out / LAST)
    image = run.state.test_loader.dataset.images[3]
    Image.fromarray(image[0]).save(tmp_path / "same.png")
    assert np.array_equal(classifier.read(tmp_path / "same.png"), image)
    Image.new("RGB", (300, 71), (250, 128, 10)).save(tmp_path / "other.jpg")
    assert classifier.read(tmp_path / "other.jpg").shape == (1, 28, 28)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "none.png"))):
        classifier.read(tmp_path / "none.png")


@pytest.mark.parametrize("size", [(28, 28), (40, 70), (90, 33), (1, 200)])
def test_images_in_memory_become_what_files_do(run, tmp_path, size):
    classifier = Classifier(run.out / LAST)
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    for shape in ((1, 28, 28), (3, 20, 24)):
        classifier.inputs = replace(
            classifier.inputs, image_shape=shape, stored_size=(shape[1] + 5, shape[2] + 4)
        )
        expected = classifier.read(tmp_path / "image.png")
        assert np.array_equal(classifier.prepare(pixels), expected)
        assert np.array_equal(classifier.prepare(pixels[::-1][::-1]), expected)
    for bad in (pixels[0], pixels[..., :2], pixels.astype(float), pixels[:0]):
        with pytest.raises(ValueError, match=r"pixels: got .*, expected uint8 \(H, W, 3\)"):
            classifier.prepare(bad)


def test_images_are_cut_as_those_of_shards_are(trainer, tmp_path):
    """Packed at 48 pixels, of which the network sees 32: so does it of a file."""
    rng = np.random.default_rng(3)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i, size in enumerate([(90, 60), (60, 90), (48, 48)]):
                pixels = rng.integers(0, 256, (*size, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i}.png")
    pack(f"folder:{tmp_path}", tmp_path.parent / "shards", size=48)
    run = trainer(tmp_path / "run", data=f"shards:{tmp_path.parent / 'shards'}?size=32")
    run.save()
    classifier = Classifier(run.out / LAST)
    (batch,) = run.state.test_loader.batches()
    files = sorted(tmp_path.glob("test/*/*.png"))
    images = np.stack([classifier.read(path) for path in files])
    found = run.inputs.normalizer()(images, np.arange(6))
    # Shards were resized with what is around the square: pixels may be rounded the other way.
    np.testing.assert_allclose(found, batch.images, atol=1.01 / 255 / min(run.inputs.deviation))
    assert classifier.probabilities(images).shape == (6, 2)


def test_other_images_and_classes_are_refused(run):
    classifier = Classifier(run.out / LAST)
    with pytest.raises(ValueError, match=r"^images: got float32 .* expected uint8 \(N, 1, 28, 28"):
        classifier.probabilities(np.zeros((1, 1, 28, 28), np.float32))
    _, test = load("fashion-mnist")
    renamed = Dataset("other", test.images, test.labels, tuple("abcdefghij"))
    with pytest.raises(ValueError, match=r"^dataset: other has classes \('a', .* which the"):
        classifier.evaluate(renamed)
    smaller = Dataset("small", test.images[:, :, :27].copy(), test.labels, test.classes)
    with pytest.raises(ValueError, match=r"^dataset: small has image_shape \(1, 27, 28\)"):
        classifier.evaluate(smaller)


def test_damage_is_told_or_does_no_harm(trainer, tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    run = trainer(tmp_path, small(), ema=0.9)
    run.fit()
    path = tmp_path / LAST
    whole = path.read_bytes()
    images = run.state.test_loader.dataset.images
    expected = Classifier(path, small()).probabilities(images)

    def check(damaged: bytes) -> bool:
        path.write_bytes(damaged)
        try:
            found = Classifier(path, small()).probabilities(images)
        except CheckpointError as error:
            assert str(path) in str(error)
            return True
        assert np.array_equal(found, expected)
        return False

    assert not check(whole)
    flipped = [rng.randrange(len(whole)) for _ in range(150)]
    flipped += [rng.randrange(300) for _ in range(50)]  # what the header says of itself
    for at in flipped:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << rng.randrange(8)
        check(bytes(damaged))
    for length in [0, 1, 7, 8, 9, len(whole) - 1] + [rng.randrange(len(whole)) for _ in range(50)]:
        assert check(whole[:length])
