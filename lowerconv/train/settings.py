"""The settings of a run: their ranges and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lowerconv.arguments import COUNT, Ascending, Choice, Flag, Number, Text, argument
from lowerconv.conv.plan import algorithms
from lowerconv.data.augment import EFFECTS, Augment
from lowerconv.nn.models import MODELS
from lowerconv.nn.precision import PRECISIONS
from lowerconv.quant.options import Quantization

# The defaults of models are for SGD; those that are others for another optimizer.
OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {},
    "adam": {"lr": 1e-3, "weight_decay": 0.0},
    "adamw": {"lr": 1e-3, "weight_decay": 1e-2},
    "lars": {"lr": 5.0},
}
SCHEDULES = ("cosine", "step", "poly", "constant")
AUTO = "auto"

# Settings that mean something with some choices only.
_BELONGS_TO: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "lars")),
    "nesterov": ("optimizer", ("sgd",)),
    "milestones": ("schedule", ("step",)),
    "gamma": ("schedule", ("step",)),
    "power": ("schedule", ("poly",)),
}


@dataclass(frozen=True)
class Settings(Quantization):
    """All that decides what a run computes.

    Parameters
    ----------
    model, data : str
        Names.
    epochs : int
    batch : int
        Samples of all ranks together that are computed at a time.
    accumulate : int
        How many batches make an update, as if they were one.
    optimizer : str
        One of ``sgd``, ``adam``, ``adamw`` and ``lars``.
    lr : float
        The learning rate at its highest.
    momentum : float
        Of ``sgd`` and ``lars``.
    nesterov : bool
        As for :class:`lowerconv.nn.SGD`.
    weight_decay : float
        Parameters of one dimension do not decay.
    schedule : str
        ``cosine``, ``step``, ``poly`` or ``constant``; see :mod:`lowerconv.train.schedule`.
    warmup : float
        Epochs in which the learning rate rises, before the schedule.
    milestones : tuple of int
        Epochs after which schedule ``step`` multiplies the learning rate by `gamma`.
    gamma, power : float
        Of the schedules ``step`` and ``poly``.
    scale_lr_from : int, optional
        The samples of an update that `lr` is meant for: it grows in proportion to those of this
        run.
    label_smoothing : float
        As for :func:`lowerconv.nn.softmax_cross_entropy`, in training.
    ema : float, optional
        The decay of an exponential average of the weights, see :mod:`lowerconv.train.ema`.
    validation : float
        Fraction of the training images that is held out, to be tested on instead of the test set.
    patience : int, optional
        Stop after so many epochs without a better accuracy.
    seed : int
        Of the weights, the order of samples, augmentation and dropout.
    algorithm : str
        Of the convolutions.
    sync_batch_norm : bool
        Whether batch norm looks at the batches of all ranks together, and not at each rank's own.
    precision : str
        ``float32``, ``bf16`` or ``fp16``: what layers pass on, and their gradients; see
        docs/precision.md. Weights, sums, statistics and the loss are float32.
    augment : str, optional
        What happens to training images, as :meth:`lowerconv.data.Augment.parse` takes it.
    weight_bits, weight_steps, activation_bits, ternary_weights : optional
        As for :class:`lowerconv.quant.Quantization`.
    fixed_point, gradient_fixed_point, rounding : optional
        As for :class:`lowerconv.quant.Quantization`.

    Raises
    ------
    TypeError, ValueError
        A setting is of the wrong kind or out of range; the message names it.
    """

    model: str
    data: str
    epochs: int = argument(10, Number(int, 1), metavar="N")
    batch: int = argument(64, Number(int, 1), "images of all ranks together", "N")
    accumulate: int = argument(
        1, Number(int, 1), "batches that make one update, as if they were one; default: 1", "K"
    )
    optimizer: str = argument("sgd", Choice(tuple(OPTIMIZERS)), "default: sgd")
    lr: float = argument(0.01, Number(float, 0), "learning rate at its highest")
    momentum: float = argument(0.9, Number(float, 0, 1, below=True), "of sgd and lars")
    nesterov: bool = argument(False, Flag(), "momentum of sgd")
    weight_decay: float = argument(5e-4, Number(float, 0), "biases and normalisation have none")
    schedule: str = argument(
        "cosine", Choice(SCHEDULES), "how the learning rate falls; default: cosine"
    )
    warmup: float = argument(
        0.0, Number(float, 0, COUNT, below=True), "in which it rises before; default: 0", "EPOCHS"
    )
    milestones: tuple[int, ...] = argument(
        (),
        Ascending("ascending epochs from 1 on", least=1),
        "epochs after which schedule step multiplies it; default: 3/9, 6/9 and 8/9 of all",
        "E,E,...",
    )
    gamma: float = argument(0.1, Number(float, 0), "... by this; default: 0.1")
    power: float = argument(2.0, Number(float, 0), "of schedule poly; default: 2")
    scale_lr_from: int | None = argument(
        None,
        Number(int, 1),
        "--lr is for updates of so many images, and grows in proportion",
        "BATCH",
    )
    label_smoothing: float = argument(
        0.0,
        Number(float, 0, 1, below=True),
        "of the target that all classes share; default: 0",
        "PART",
    )
    ema: float | None = argument(
        None,
        Number(float, 0, 1, below=True),
        "keep an exponential average of the weights, test it too, and predict with it",
        "DECAY",
    )
    validation: float = argument(
        0.0,
        Number(float, 0, 1, below=True),
        "test on so many of the training images, held out, instead of the test set",
        "FRACTION",
    )
    patience: int | None = argument(
        None, Number(int, 1), "stop after so many without a better accuracy", "EPOCHS"
    )
    seed: int = argument(0, Number(int, 0, 2**64 - 1), "default: 0")
    algorithm: str = argument(
        "auto", Choice((AUTO, *algorithms())), "of the convolutions; default: auto"
    )
    sync_batch_norm: bool = argument(
        False, Flag(), "normalise by the batches of all ranks together, not by each rank's own"
    )
    precision: str = argument(
        "float32",
        Choice(PRECISIONS),
        "of what layers pass on, and of its gradients; default: float32",
    )
    augment: str | None = argument(
        None,
        Text("names of effects", empty=True),
        "random changes to training images, each with its default amount or NAME=AMOUNT: "
        + ", ".join(f"{name}={amount}" for name, (amount, _, _) in EFFECTS.items())
        + " (what these are: docs/augment.md); default: none",
        "NAME,NAME...",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.augment is not None:
            Augment.parse(self.augment)
        if self.warmup >= self.epochs and self.warmup:
            raise ValueError(
                f"warmup: got {self.warmup:g}, expected less than {self.epochs} epochs"
            )
        if self.precision != "float32" and self.quantizes:
            raise ValueError(
                f"precision: got {self.precision!r} with {self.words()}, expected 'float32'"
            )
        if self.ema is not None and self.fixed_point is not None:
            raise ValueError(
                f"ema: got {self.ema} with fixed_point {self.fixed_point}, expected none: an "
                "average has more bits"
            )

    @property
    def update_batch(self) -> int:
        """Samples in an update."""
        return self.batch * self.accumulate


def resolve(
    model: str, data: str, given: Mapping[str, Any], saved: Mapping[str, Any] | None = None
) -> Settings:
    """Return the settings of a run: what is given, and else what suits the model.

    Parameters
    ----------
    model : str
        One of :data:`lowerconv.nn.models.MODELS`, or the name of another network.
    data : str
    given : mapping of str to object
        Attributes of :class:`Settings`; one that is None counts as not given. `augment` may be an
        `Augment`.
    saved : mapping of str to object, optional
        Settings of the run that is resumed: what is not given is as it was.

    Raises
    ------
    TypeError, ValueError
        No such setting, a value out of its range, or one that another choice leaves unused.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "augment" in given:  # in one spelling, which a resumed run is compared with
        given["augment"] = str(Augment.parse(str(given["augment"]))) or None
    # Those of `Quantization`, from which they are inherited, last.
    names = [
        field.name for field in sorted(fields(Settings), key=lambda field: field.kw_only is True)
    ]
    for name in given:
        if name not in names:
            raise TypeError(f"{name}: no such setting, expected one of {', '.join(names)}")
    known = vars(MODELS[model]) if model in MODELS else {}
    values = {name: known[name] for name in names if name in known}
    if "optimizer" in given:
        values |= OPTIMIZERS.get(given["optimizer"], {})
    if saved is not None:
        own = ("model", "data")
        values = {name: saved[name] for name in names if name in saved and name not in own}
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
