"""What Python threads share of a module, what each has of its own, and which of them trains it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lowerconv.copying import not_copied
from lowerconv.nn.memory import Arena
from lowerconv.runtime.native import allocate_lock
from lowerconv.runtime.threads import FairMutex

if TYPE_CHECKING:
    from lowerconv.nn.module import Module
    from lowerconv.nn.program import Program
    from lowerconv.nn.template import Template


@not_copied("copy the network, which begins with none")
class Execution:
    """What a module runs with, one run at a time.

    Attributes
    ----------
    programs : dict of Program
        By all that they depend on; the latest is last.
    templates : dict of Template or None
        Of their graphs, by what these depend on beside extents; None before there is one.
    arena : Arena
        Their memory.
    current : Program or None
        The one that has run last.
    running : Lock
        Held while one runs.
    """

    def __init__(self) -> None:
        self.programs: dict[Any, Program] = {}
        self.templates: dict[Any, Template | None] = {}
        self.arena = Arena()
        self.current: Program | None = None
        self.running = allocate_lock()


@not_copied("copy the network, which begins with none")
class OwnExecution(threading.local):
    """The execution that each thread has of its own; it goes when the thread ends."""

    def __init__(self) -> None:
        self.execution = Execution()


@not_copied("copy the network, which begins with none")
class TrainingStep:
    """A run in training by one thread, and the backward step that follows.

    Attributes
    ----------
    thread : Thread
    inside : Lock
        Held while the thread computes forward or backward.
    spent : bool
        Whether an optimizer has used the gradients.
    """

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.inside = allocate_lock()
        self.spent = False

    @property
    def busy(self) -> bool:
        """Return whether the thread computes now; in a forked child its parent's never do."""
        return self.inside.locked() and self.thread.is_alive()


@not_copied("copy the network, which begins with none")
class Use:
    """All that the use of a module takes beside the module itself; no copy of it has the same.

    Attributes
    ----------
    mutex : FairMutex
        At being called with an array.
    inference : Execution
        Of such calls, by whichever thread.
    own : OwnExecution
        Of `run` and `backward`.
    trained : tuple of TrainingStep
        Of a layer: the last one of each thread that has trained it.
    """

    def __init__(self) -> None:
        self.mutex = FairMutex("a network")
        self.inference = Execution()
        self.own = OwnExecution()
        self.trained: tuple[TrainingStep, ...] = ()


# Layers know the last step of each thread that has trained them, the latest of all last: so two
# threads find each other whichever of the modules that have a layer they train.

_noting = allocate_lock()  # held while these are looked at and changed


def _renew() -> None:
    """Give a forked child a new lock: a thread that the child lacks may hold that of its parent."""
    global _noting
    _noting = allocate_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def begin(layers: Iterable[Module], step: TrainingStep) -> None:
    """Note that a thread trains layers from now on.

    Raises
    ------
    RuntimeError
        Another one is inside a step of one of them; nothing has been changed.
    """
    layers = tuple(layers)
    with _noting:
        for layer in layers:
            for other in layer._use.trained[-1:]:
                if other.busy:
                    raise RuntimeError(
                        f"run: thread {other.thread.name!r} is inside a training step of this "
                        f"network (of a {type(layer).__name__} in it), and "
                        f"{step.thread.name!r} cannot train it at the same time: a network is "
                        "trained by one thread"
                    )
        for layer in layers:
            others = (o for o in layer._use.trained if o.thread is not step.thread)
            layer._use.trained = (*(o for o in others if o.thread.is_alive()), step)


def go_on(layers: Iterable[Module], step: TrainingStep) -> None:
    """Begin the backward step of layers.

    Raises
    ------
    RuntimeError
        Another thread has trained one of them since the run.
    """
    with _noting:
        for layer in layers:
            for latest in layer._use.trained[-1:]:
                if latest.thread is not step.thread:
                    raise RuntimeError(_overtaken("backward", layer, latest, "run"))


def use_gradients(layers: Iterable[Module]) -> None:
    """Note that the calling thread has an optimizer use the gradients of layers.

    Raises
    ------
    RuntimeError
        They are not those that it has computed, because another thread has trained a layer since;
        or that is inside a step now.
    """
    layers, thread = tuple(layers), threading.current_thread()
    with _noting:
        for layer in layers:
            *before, latest = layer._use.trained or (None,)
            if latest is None or latest.thread is thread:
                continue
            mine = any(step.thread is thread and not step.spent for step in before)
            if mine or latest.busy:
                raise RuntimeError(_overtaken("step", layer, latest, "backward"))
        for layer in layers:
            for latest in layer._use.trained[-1:]:
                latest.spent = True


def _overtaken(what: str, layer: Module, latest: TrainingStep, since: str) -> str:
    return (
        f"{what}: thread {latest.thread.name!r} has trained this network (a "
        f"{type(layer).__name__} in it) since the {since} of thread "
        f"{threading.current_thread().name!r}: a network is trained by one thread at a time"
    )
