"""What every schedule is made for: a convolution, an instruction set, and where threads run."""

from __future__ import annotations

from dataclasses import dataclass

from lowerconv.codegen.isa import LINE, Isa
from lowerconv.codegen.packing import slack
from lowerconv.conv.phases import Convolution


@dataclass(frozen=True)
class BaseSchedule:
    """The first fields of all schedules.

    Attributes
    ----------
    conv : Convolution
        Of a weight gradient, the forward pass that it belongs to.
    isa : Isa
    nodes : tuple of int
        NUMA node of each thread.
    """

    conv: Convolution
    isa: Isa
    nodes: tuple[int, ...]

    @property
    def VL(self) -> int:
        """Lanes of a vector."""
        return self.isa.lanes(self.conv.dtype)

    def line_bytes(self, items: int) -> int:
        """Return the bytes of `items` items and their slack, rounded up to whole cache lines."""
        dtype = self.conv.dtype
        return -(-(items + slack(self.isa, dtype)) * dtype.itemsize // LINE) * LINE
