"""Recognises the filters that packed ones were made of: for filters that do not change."""

from __future__ import annotations

from lowerconv.conv.executable import Array
from lowerconv.copying import not_copied

SAMPLES = 64  # numbers that are compared at every call: a microsecond


@not_copied("copy the ConvPlan that it is a part of")
class PackedFrom:
    """Remembers the array of filters that packed ones were made of."""

    def __init__(self) -> None:
        self._filters: Array | None = None
        self._sample = b""

    def has(self, filters: Array) -> bool:
        """Return whether the packed filters were made of these.

        Raises
        ------
        ValueError
            They were, and some of their numbers have changed since: a sample of them is compared.
        """
        known = self._filters
        if known is None or (known is not filters and known.ctypes.data != filters.ctypes.data):
            return False
        if _sample(filters) != self._sample:
            raise ValueError(
                "w: got an array whose numbers have changed since its filters were packed, "
                "expected the same numbers, as constant_weights=True promises, or another array"
            )
        return True

    def forget(self) -> None:
        """Forget the array, before packing begins: half packed filters must not be used."""
        self._filters = None

    def take(self, filters: Array) -> None:
        """Note that the filters are packed.

        The array is kept alive: no other one can get its address.
        """
        self._sample = _sample(filters)
        self._filters = filters


def _sample(filters: Array) -> bytes:
    flat = filters.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLES) | 1].tobytes()
