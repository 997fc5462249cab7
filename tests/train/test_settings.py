"""Settings: their defaults, their ranges, and which of them belong together."""

import pytest

from lowerconv.nn.models import MODELS
from lowerconv.train.settings import OPTIMIZERS, SCHEDULES, Settings, resolve


def test_a_model_brings_its_own():
    model = MODELS["lenet"]
    settings = resolve("lenet", "d", {"batch": None, "epochs": 3})
    assert (settings.epochs, settings.batch, settings.lr) == (3, model.batch, model.lr)
    assert settings.weight_decay == model.weight_decay


def test_another_optimizer_brings_its_own():
    settings = resolve("lenet", "d", {"optimizer": "adamw"})
    assert (settings.lr, settings.weight_decay) == (1e-3, 1e-2)
    assert resolve("lenet", "d", {"optimizer": "adamw", "lr": 0.5}).lr == 0.5
    assert resolve("lenet", "d", {"optimizer": "sgd"}).lr == MODELS["lenet"].lr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"optimizer": "rmsprop"},
            f"optimizer: got 'rmsprop', expected one of {', '.join(OPTIMIZERS)}",
        ),
        ({"schedule": "linear"}, f"schedule: got 'linear', expected one of {', '.join(SCHEDULES)}"),
        ({"epochs": 5, "warmup": 5}, "warmup: got 5, expected less than 5 epochs"),
        ({"schedule": "step", "milestones": (3, 2)}, "milestones: got"),
        ({"schedule": "step", "milestones": (0, 2)}, "milestones: got"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum: got 0.9, but optimizer 'adam' has no"),
        ({"optimizer": "lars", "nesterov": True}, "nesterov: got True, but optimizer 'lars'"),
        ({"power": 1.0}, "power: got 1.0, but schedule 'cosine' has no power"),
        ({"milestones": (1,)}, "milestones: got .*: expected it with step only"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_named(given, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        resolve("lenet", "d", given)


def test_bool_is_no_number():
    with pytest.raises(TypeError, match=r"^epochs: got True"):
        Settings("lenet", "d", epochs=True)
