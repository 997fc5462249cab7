"""Which memory every array of a step uses: two that are never alive together may share it."""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from weakref import WeakValueDictionary

import numpy as np

from lowerconv.codegen.isa import LINE
from lowerconv.copying import not_copied


@dataclass(eq=False)
class Block:
    """A piece of memory and the time that it is needed for.

    Attributes
    ----------
    nbytes : int
    first, last : int
        The first and the last moment when something is in it.
    kind : str
        For people: "activations", "gradients" or "saved".
    offset : int
        Where it begins; set by `lay_out`.
    """

    nbytes: int
    first: int
    last: int
    kind: str
    offset: int = 0

    def use(self, moment: int) -> None:
        """Extend the time of need to a moment."""
        self.first, self.last = min(self.first, moment), max(self.last, moment)


def lay_out(blocks: Iterable[Block]) -> int:
    """Set the offsets of blocks so that no two that live together overlap; return the bytes needed.

    The largest first, each at the lowest place that is free for as long as it lives: the greedy
    order of Pisarchyk and Lee, "Efficient memory management for deep neural net inference" (2020),
    section 5.
    """
    placed: list[Block] = []
    total = 0
    for block in sorted(blocks, key=lambda block: (-block.nbytes, block.first)):
        block.nbytes = -(-block.nbytes // LINE) * LINE
        offset = 0
        for other in placed:  # by offset
            if other.last < block.first or other.first > block.last:
                continue
            if other.offset - offset >= block.nbytes:
                break
            offset = max(offset, other.offset + other.nbytes)
        block.offset = offset
        total = max(total, offset + block.nbytes)
        insort(placed, block, key=_offset)
    return total


def _offset(block: Block) -> int:
    return block.offset


@not_copied("copy the network, which plans anew")
class Arena:
    """The memory that all programs of a network share: one of them runs at a time.

    Attributes
    ----------
    filters : mapping of ndarray
        What their plans keep of filters, as long as one does.
    """

    def __init__(self) -> None:
        self.filters: WeakValueDictionary[Hashable, np.ndarray] = WeakValueDictionary()
        self.memory = np.empty(0, np.uint8)
        self.generation = 0  # of the memory: who was placed in an older one moves
        self.user: object = None

    def reserve(self, nbytes: int) -> None:
        """Have at least `nbytes` bytes, aligned to cache lines."""
        if nbytes <= self.memory.size:
            return
        self.user = None
        self.generation += 1  # before there is another one, whatever interrupts it
        self.memory = np.empty(0, np.uint8)  # the old one first, so that both never coexist
        room = np.empty(nbytes + LINE, np.uint8)
        start = -room.ctypes.data % LINE
        self.memory = room[start : start + nbytes]


@dataclass(frozen=True)
class MemoryReport:
    """What a step needs, in bytes.

    Attributes
    ----------
    parameters, parameter_gradients : int
        Kept between steps, buffers of batch norm included; what an optimizer keeps is not.
    activations, gradients, saved : int
        Results of layers, gradients of those, and what else waits for the backward step, if each
        had memory of its own.
    arena : int
        What these take: arrays that are never needed together share memory.
    workspace : int
        Scratch of the kernels, for all threads; one buffer for all networks of the process.
    """

    parameters: int
    parameter_gradients: int
    activations: int
    gradients: int
    saved: int
    arena: int
    workspace: int

    @property
    def total(self) -> int:
        """All that is in memory at once."""
        return self.parameters + self.parameter_gradients + self.arena + self.workspace

    def __str__(self) -> str:
        rows = [
            ("parameters", self.parameters),
            ("their gradients", self.parameter_gradients),
            ("arena", self.arena),
            ("  activations", self.activations),
            ("  gradients", self.gradients),
            ("  saved", self.saved),
            ("workspace", self.workspace),
            ("total", self.total),
        ]
        shown = [(name, nbytes) for name, nbytes in rows if nbytes]
        return "\n".join(f"{name:<18} {nbytes / 2**20:>10,.1f} MiB" for name, nbytes in shown)
