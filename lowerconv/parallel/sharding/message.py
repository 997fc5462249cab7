"""Messages that layers begin, and wait for later on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import numpy as np

from lowerconv.copying import not_copied
from lowerconv.nn.module import Shape
from lowerconv.parallel.comm.collectives import Routine, exchange
from lowerconv.parallel.comm.engine import URGENT, Engine, Task
from lowerconv.parallel.comm.link import Link, MessageMemory


@not_copied("make another `Trainer` or strategy in each process")
class Message:
    """A message that is begun and ended, again and again, and the memory that it uses.

    Attributes
    ----------
    engine : Engine
    rank, ranks : int
    name : str
        Of the layer that it is for, as timelines show it.
    """

    def __init__(self, engine: Engine, pool: MessageMemory, name: str) -> None:
        self.engine, self.name = engine, name
        self.rank, self.ranks = engine.rank, engine.ranks
        self._pool = pool
        self._taken: list[np.ndarray] = []
        self._task: Task | None = None

    def memory(self, nbytes: int) -> np.ndarray:
        """Return at least so many bytes, until `release`."""
        memory = self._pool.take(nbytes)
        self._taken.append(memory)
        return memory

    def submit(self, routine: Callable[[Link], Routine], what: str, nbytes: int) -> None:
        """Begin the message; all ranks submit the same ones in the same order."""
        self._task = self.engine.submit(routine, f"{self.name} {what}", nbytes, priority=URGENT)

    def wait(self) -> None:
        """Wait for the message, if there is one; what was received stays until `release`."""
        if self._task is not None:
            self.engine.wait(self._task)
            self._task = None

    def release(self) -> None:
        """Let others use the memory of a message that has come."""
        self._pool.give_back(self._taken)
        self._taken = []


@not_copied("make another `Trainer` or strategy in each process")
class Exchange(Message):
    """Arrays that ranks send each other, each to whom it concerns."""

    def __init__(self, engine: Engine, pool: MessageMemory, name: str) -> None:
        super().__init__(engine, pool, name)
        self._incoming: list[np.ndarray] = []

    def begin(
        self,
        what: str,
        outgoing: Sequence[tuple[int, np.ndarray]],
        incoming: Sequence[tuple[int, Shape]],
        dtype: np.dtype,
    ) -> None:
        """Begin to send copies of arrays, and to receive others; all ranks call it.

        Parameters
        ----------
        what : str
            Is sent, as timelines show it.
        outgoing : sequence of (int, ndarray)
            To which rank, and what.
        incoming : sequence of (int, tuple of int)
            From which rank, and its shape. Those from one rank come in the order in which it has
            sent them.
        dtype : dtype
            Of all of them.
        """
        sends, receives = [], []
        for rank, array in outgoing:
            packed = self._buffer(array.shape, dtype)
            packed[...] = array
            sends.append((rank, packed))
        for rank, shape in incoming:
            receives.append((rank, self._buffer(shape, dtype)))
        self._incoming = [array for _, array in receives]
        nbytes = sum(array.nbytes for _, array in (*sends, *receives))
        self.submit(partial(exchange, sends=sends, receives=receives), what, nbytes)

    def end(self) -> list[np.ndarray]:
        """Wait, and return what has come, which stays until `release`."""
        self.wait()
        found, self._incoming = self._incoming, []
        return found

    def _buffer(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        nbytes = prod(shape) * dtype.itemsize
        return self.memory(nbytes)[:nbytes].view(dtype).reshape(shape)
