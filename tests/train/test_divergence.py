"""A run that leaves the finite numbers stops, names the layer, and leaves its checkpoints whole."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.divergence import describe_divergence
from lowerconv.train import DivergenceError
from lowerconv.train.checkpoint import LAST, load_checkpoint
from lowerconv.train.progress import Reporter

STEP = nn.Step(training=True, number=4)


class Bomb(nn.Layer):
    """Passes its input on; from an update on, one pixel is as told."""

    def __init__(self, value: float, update: int) -> None:
        super().__init__()
        self.value, self.update = value, update

    def result_shape(self, *shapes):
        return shapes[0]

    def compute(self, frame, step):
        frame.y.array[...] = frame.x.array
        if step.training and step.number >= self.update and frame.y.flat.size:
            frame.y.flat[0] = self.value

    def differentiate(self, frame, step):
        if frame.dx is not None:
            frame.dx.array[...] = frame.gradient.array


def network(value: float = np.nan, update: int = 10**9) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 5, stride=4),
        nn.ReLU(),
        nn.Sequential(Bomb(value, update), nn.Flatten()),
        nn.Linear(108, 10),
    )


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf")])
def test_the_layer_is_named_and_the_checkpoint_whole(trainer, tmp_path, value, name):
    run = trainer(tmp_path, network(value, 9), epochs=3)  # an epoch has seven updates
    with pytest.raises(
        DivergenceError,
        match=rf"at update 10 of the run: layer '2\.0 Bomb' is the first whose output holds "
        rf"{name}, from finite inputs; a smaller learning rate",
    ):
        run.fit()
    checkpoint = load_checkpoint(tmp_path / LAST)
    assert len(checkpoint.state["history"]) == 1
    assert all(np.isfinite(tensor).all() for tensor in checkpoint.tensors.values())


def test_weights_are_the_cause():
    net = network()
    net.parameters()["3.weight"].data[4, 5] = np.inf
    text = describe_divergence(net, np.ones((2, 1, 28, 28), np.float32), STEP, np.inf)
    assert "layer '3 Linear' is the first whose output holds" in text
    assert "because its weight already did" in text
    assert not net._watches  # nothing is left behind


def test_watchers_of_others_stay():
    net = nn.Sequential(nn.ReLU())
    told = []
    net.register_watch(lambda layer, frame, phase: told.append(phase))
    text = describe_divergence(net, np.ones((1, 2), np.float32), STEP, np.nan)
    assert "all layers' outputs are finite" in text
    net.run(np.ones((1, 2), np.float32))
    assert told == ["forward"]  # of what the program ran itself


def test_weights_that_relu_hides_are_found_before_they_are_saved(trainer, tmp_path):
    run = trainer(tmp_path, network(), epochs=2)

    class Poison(Reporter):
        def step(self, images, loss, accuracy):
            run.optimizer.data[0] = np.nan
            run.network.run = lambda x, step: np.zeros((len(x), 10), np.float32)
            run.network.backward = lambda dy: None

    run.reporter = Poison()
    with pytest.raises(DivergenceError, match=r"epoch 1: '0.weight' holds nan"):
        run.fit()
    assert load_checkpoint(tmp_path / LAST).state["history"] == []


def test_too_large_a_learning_rate_is_told(trainer, tmp_path):
    with pytest.raises(DivergenceError, match=r"layer '\d \w+' is the first|epoch 1: '0"):
        trainer(tmp_path, lr=1e20, epochs=3).fit()
