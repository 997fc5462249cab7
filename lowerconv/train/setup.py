"""What a run is made of, before ranks do anything together: settings, data, and a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lowerconv.data import load
from lowerconv.data.source import Source, check_source
from lowerconv.data.split import hold_out
from lowerconv.nn.models import MODELS
from lowerconv.nn.module import Module
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.optim import LARS, SGD, Adam, LossScale, Optimizer
from lowerconv.parallel.comm.agreement import describe_data, describe_parameters, versions
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.mpi_communicator import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.quant.prepare import prepare
from lowerconv.runtime.affinity import set_share
from lowerconv.runtime.threads import set_num_threads
from lowerconv.train.initial import InitialWeights
from lowerconv.train.inputs import Inputs
from lowerconv.train.settings import Settings, resolve

# Strategies by which all ranks have the weights and steps that they compute with.
_QUANTIZED = ("data", "tree", "async")
_SCALED = ("data", "tree")  # by which they have the same gradients, all at once


def make_optimizer(network: Module, settings: Settings) -> Optimizer:
    """Return the optimizer that the settings name."""
    lr, decay = settings.lr, settings.weight_decay
    optimizer: Optimizer
    if settings.optimizer == "sgd":
        optimizer = SGD(network, lr, settings.momentum, decay, settings.nesterov)
    elif settings.optimizer == "lars":
        optimizer = LARS(network, lr, settings.momentum, decay)
    else:
        optimizer = Adam(network, lr, weight_decay=decay, decoupled=settings.optimizer == "adamw")
    optimizer.rounding = settings.rounded_updates(settings.seed)
    if settings.precision == "fp16":
        optimizer.scale_loss(LossScale())
    return optimizer


@dataclass(frozen=True)
class Setup:
    """What was asked for, read and built.

    Attributes
    ----------
    settings : Settings
    parallel : ParallelOptions
    network : Module
    inputs : Inputs
    train_set, test_set : Source
    part : str
        What the images that are tested on are: ``test`` or ``validation``.
    """

    settings: Settings
    parallel: ParallelOptions
    network: Module
    inputs: Inputs
    train_set: Source
    test_set: Source
    part: str

    def facts(self) -> dict[str, Any]:
        """Return what all ranks must have in common."""
        return (
            versions()
            | asdict(self.settings)
            | {f"parallel option {name}": value for name, value in asdict(self.parallel).items()}
            | {f"training images: {name}": value for name, value in asdict(self.inputs).items()}
            | self.images
            | describe_parameters(self.network)
        )

    @cached_property
    def images(self) -> dict[str, Any]:
        """What tells the images from others."""
        return describe_data("training", self.train_set) | describe_data(self.part, self.test_set)


def _check_sets(data: Any) -> None:
    """Raise TypeError or ValueError unless these are a training set and a test set, or None."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise TypeError(
            f"data: got {type(data).__name__}, expected a name, or (training set, test set or None)"
        )
    train, test = data
    for i, part in enumerate(data if test is not None else data[:1]):
        check_source(part, f"data[{i}]")
    for name in ("image_shape", "classes") if test is not None else ():
        found, expected = tuple(getattr(test, name)), tuple(getattr(train, name))
        if found != expected:
            raise ValueError(f"data[1]: got {name} {found}, expected {expected}, that of data[0]")


def names(model: str | Module, data: str | tuple[Source, Source | None]) -> tuple[str, str]:
    """Return what a network and a data set are called."""
    if not isinstance(data, str):
        _check_sets(data)
    return (
        model if isinstance(model, str) else type(model).__name__,
        data if isinstance(data, str) else data[0].name,
    )


def read(
    model: str | Module,
    data: str | tuple[Source, Source | None],
    parallel: str | ParallelOptions,
    given: Mapping[str, Any],
    saved: Mapping[str, Any] | None = None,
    initial: InitialWeights | None = None,
) -> Setup:
    """Read the data and make the network; arguments and errors as of `Trainer`.

    `saved` are the settings of the run that is resumed, `initial` the weights to begin with.
    """
    if not isinstance(model, (str, Module)):
        raise TypeError(
            f"model: got {type(model).__name__}, expected a name, or a network of lowerconv.nn: "
            "of a module of PyTorch, lowerconv.torch.to_native(model, images)"
        )
    if isinstance(model, str) and model not in MODELS:
        raise ValueError(f"model: got {model!r}, expected one of {', '.join(MODELS)}")
    settings = resolve(*names(model, data), given, saved)
    options = ParallelOptions(parallel) if isinstance(parallel, str) else parallel
    if settings.quantizes and options.strategy not in _QUANTIZED:
        raise ValueError(
            f"parallel: got {options.strategy!r} with {settings.words()}, expected one of "
            f"{', '.join(_QUANTIZED)}: ranks that all have the whole network"
        )
    _check_precision(settings, options.strategy)
    train_set, test_set = load(data) if isinstance(data, str) else data
    part = "test"
    if settings.validation:
        train_set, test_set = hold_out(train_set, settings.validation, settings.seed)
        part = "validation"
    elif test_set is None:
        raise ValueError(
            "validation: got 0 and no test set, expected the fraction of the training images to "
            "hold out"
        )
    inputs = Inputs.of(train_set)
    if isinstance(model, str):
        build = MODELS[model].build
        network: Module = build(train_set.image_shape, len(train_set.classes), settings.algorithm)
        network.initialize(np.random.default_rng(settings.seed))
    else:
        network = model
    if initial is not None:
        initial.copy_to(network)
    for _, module in network.modules():
        if isinstance(module, BatchNorm2d):
            module.synchronized |= settings.sync_batch_norm
    if settings.quantizes:
        prepare(network, settings)
    network.precision = settings.precision
    return Setup(settings, options, network, inputs, train_set, test_set, part)


def _check_precision(settings: Settings, strategy: str) -> None:
    """Raise ValueError where a precision does not go with how ranks share the work."""
    known = _SCALED if settings.precision == "fp16" else _QUANTIZED
    if settings.precision != "float32" and strategy not in known:
        raise ValueError(
            f"parallel: got {strategy!r} with precision {settings.precision!r}, expected one of "
            f"{', '.join(known)}"
        )


def join() -> Communicator:
    """Return all ranks of this job, having taken this one's share of the cores."""
    communicator = world()
    if communicator.ranks > 1:
        set_share(communicator.cpus)
        set_num_threads(communicator.threads)
    return communicator
