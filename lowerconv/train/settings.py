"""The settings of a run: what they may be, and what they are where nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from lowerconv.data.augment import Augment
from lowerconv.nn.models import MODELS

# A value is from the first number on and below the second.
RANGES: dict[str, tuple[type, float, float]] = {
    "epochs": (int, 1, inf),
    "batch": (int, 1, inf),
    "accumulate": (int, 1, inf),
    "lr": (float, 0, inf),
    "momentum": (float, 0, 1),
    "weight_decay": (float, 0, inf),
    "warmup": (float, 0, inf),
    "gamma": (float, 0, inf),
    "power": (float, 0, inf),
    "scale_lr_from": (int, 1, inf),
    "label_smoothing": (float, 0, 1),
    "ema": (float, 0, 1),
    "validation": (float, 0, 1),
    "patience": (int, 1, inf),
    "seed": (int, 0, inf),
}

# The defaults of models are for SGD; those that are others for another optimizer.
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {},
    "adam": {"lr": 1e-3, "weight_decay": 0.0},
    "adamw": {"lr": 1e-3, "weight_decay": 1e-2},
    "lars": {"lr": 5.0},
}
SCHEDULES = ("cosine", "step", "poly", "constant")

# Settings that mean something with some choices only.
_BELONGS_TO: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "lars")),
    "nesterov": ("optimizer", ("sgd",)),
    "milestones": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "power": ("schedule", ("poly",)),
}


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes.

    Attributes
    ----------
    model, data : str
        Names.
    epochs : int
    batch : int
        Samples of all ranks together that are computed at a time.
    accumulate : int
        So many batches make an update, as if they were one.
    optimizer : str
        One of ``sgd``, ``adam``, ``adamw`` and ``lars``.
    lr : float
        The learning rate at its highest.
    momentum, nesterov, weight_decay
        Of the optimizer. Parameters of one dimension do not decay.
    schedule : str
        ``cosine``, ``step``, ``poly`` or ``constant``; see :mod:`lowerconv.train.schedule`.
    warmup : float
        Epochs in which the learning rate rises, before the schedule.
    milestones : tuple of int
        Epochs after which schedule ``step`` multiplies the learning rate by `gamma`.
    gamma, power : float
        Of the schedules ``step`` and ``poly``.
    scale_lr_from : int, optional
        `lr` is for updates of so many samples, and grows in proportion to those of this run.
    label_smoothing : float
        As for :func:`lowerconv.nn.softmax_cross_entropy`, in training.
    ema : float, optional
        The decay of an exponential average of the weights, see :mod:`lowerconv.train.ema`.
    validation : float
        Fraction of the training images that is held out, to be tested on instead of the test set.
    patience : int, optional
        Stop after so many epochs without a better accuracy.
    seed : int
    algorithm : str
        Of the convolutions.
    augment : str, optional
        What happens to training images, as :meth:`lowerconv.data.Augment.parse` takes it.
    """

    model: str
    data: str
    epochs: int = 10
    batch: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    power: float = 2.0
    scale_lr_from: int | None = None
    label_smoothing: float = 0.0
    ema: float | None = None
    validation: float = 0.0
    patience: int | None = None
    seed: int = 0
    algorithm: str = "auto"
    augment: str | None = None

    def __post_init__(self) -> None:
        for name, (kind, least, below) in RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not issubclass(type(value), (int, kind)):
                raise TypeError(f"{name}: got {value!r}, expected {kind.__name__}")
            if not least <= value < below:
                raise ValueError(f"{name}: got {value}, expected {describe_range(least, below)}")
        for name, choices in (("optimizer", tuple(OPTIMIZERS)), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}"
                )
        if self.augment is not None:
            Augment.parse(self.augment)
        if self.warmup >= self.epochs and self.warmup:
            raise ValueError(
                f"warmup: got {self.warmup:g}, expected less than {self.epochs} epochs"
            )
        ascending = list(self.milestones) == sorted(set(self.milestones))
        if not ascending or any(epoch < 1 for epoch in self.milestones):
            raise ValueError(
                f"milestones: got {self.milestones}, expected ascending epochs from 1 on"
            )

    @property
    def update_batch(self) -> int:
        """Samples in an update."""
        return self.batch * self.accumulate


def describe_range(least: float, below: float) -> str:
    """Return what a number may be, in words."""
    return f"at least {least:g}" + (f" and below {below:g}" if below < inf else "")


def resolve(model: str, data: str, given: Mapping[str, Any]) -> Settings:
    """Return the settings of a run: what is given, and else what suits the model.

    Parameters
    ----------
    model : str
        One of :data:`lowerconv.nn.models.MODELS`, or the name of another network.
    data : str
    given : mapping of str to object
        Attributes of :class:`Settings`; None is as good as nothing. `augment` may be an `Augment`.

    Raises
    ------
    TypeError, ValueError
        No such setting, a value out of its range, or one that another choice leaves unused.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "augment" in given:  # in one spelling, which a resumed run is compared with
        given["augment"] = str(Augment.parse(str(given["augment"]))) or None
    names = [field.name for field in fields(Settings)]
    for name in given:
        if name not in names:
            raise TypeError(f"{name}: no such setting, expected one of {', '.join(names)}")
    known = vars(MODELS[model]) if model in MODELS else {}
    values = {name: known[name] for name in names if name in known}
    if "optimizer" in given:
        values |= OPTIMIZERS.get(given["optimizer"], {})
    values |= given
    settings = Settings(model=model, data=data, **values)
    for name in given:
        choice, owners = _BELONGS_TO.get(name, ("", ()))
        if choice and getattr(settings, choice) not in owners:
            raise ValueError(
                f"{name}: got {given[name]!r}, but {choice} {getattr(settings, choice)!r} has no "
                f"{name}: expected it with {' or '.join(owners)} only"
            )
    return settings
