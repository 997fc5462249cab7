"""What this rank is doing, noted as it goes on, for others to be told when they wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

from lowerconv.nn.hooks import HookHandle
from lowerconv.nn.module import Module


class Status:
    """What a rank does.

    Attributes
    ----------
    step : int
        Number of the update, from 1; 0 before the first.
    doing : str
    moved : float
        When it last went on to something else, ``time.monotonic()``.
    waiting : str or None
        For what other ranks have to send.
    waiting_since : float
    compiling : bool
        Kernels: that takes long, and nothing can be noted meanwhile.
    """

    def __init__(self) -> None:
        self.step, self.doing = 0, "starting"
        self.moved = time.monotonic()
        self.waiting: str | None = None
        self.waiting_since = 0.0
        self._compilations = 0

    def note(self, doing: str, step: int | None = None) -> None:
        """Go on to something else."""
        self.doing = doing
        if step is not None:
            self.step = step
        self.moved = time.monotonic()

    @property
    def compiling(self) -> bool:  # noqa: D102 - above
        return self._compilations > 0

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Note that something is done which may take as long as compiling."""
        self.note("drawing the curves")
        self._compilations += 1
        try:
            yield
        finally:
            self._compilations -= 1
            self.note("ending")

    def observe(self, network: Module) -> HookHandle:
        """Note each layer of a network when it is done, until the handle is removed."""
        names = {id(module): name for name, module in network.modules()}

        def watch(layer: Any, frame: Any, phase: str) -> None:
            self.doing = f"computing, after {names.get(id(layer), 'a layer')} {phase}"
            self.moved = time.monotonic()

        return network.register_watch(watch)

    def listen(self) -> None:
        """Note from now on when kernels are compiled."""
        event.register("numba:compile", _Compilation(self))


class _Compilation(event.Listener):
    def __init__(self, status: Status) -> None:
        self._status = status

    def on_start(self, started: event.Event) -> None:
        self._status._compilations += 1
        self._status.moved = time.monotonic()

    def on_end(self, ended: event.Event) -> None:
        self._status._compilations -= 1
        self._status.moved = time.monotonic()
