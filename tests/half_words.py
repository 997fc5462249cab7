"""Has bf16 multiplied on words, on CPUs where that is not faster, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from lowerconv.codegen.isa import ISAS, Isa, host_extensions
from lowerconv.conv.algorithms import choose
from lowerconv.conv.plan_cache import _cached_plan
from lowerconv.conv.words import bf16
from lowerconv.machine.features import instruction_set

CPU = ISAS[instruction_set()]
HAS = host_extensions(CPU.name)
# The dot product without instructions for it, with those that the CPU has, and with tiles.
ISAS_OF_WORDS = {
    isa.name: isa
    for isa in (
        CPU,
        CPU.extended(*(name for name in HAS if not name.startswith("amx"))),
        CPU.extended(*HAS),
    )
}


@contextmanager
def multiplied(isa: Isa) -> Iterator[Isa]:
    """Have words multiplied with an instruction set, whether that is faster or not."""
    made = bf16.convolution_of_words, choose, _cached_plan

    def forget() -> None:
        for each in made:
            each.cache_clear()

    with (
        mock.patch.object(bf16, "host_isa_extended", lambda: isa),
        mock.patch.object(bf16, "_is_fast", lambda: True),
    ):
        forget()
        try:
            yield isa
        finally:
            forget()
