"""Which filters something kept was made of, for plans whose filters are promised not to change."""

from __future__ import annotations

from lowerconv.conv.executable import Array
from lowerconv.copying import not_copied

SAMPLES = 64  # numbers that are compared at every call: a microsecond


@not_copied("copy the ConvPlan that it is a part of")
class Kept:
    """Recognises the filters that something was made of."""

    def __init__(self) -> None:
        self._filters: Array | None = None
        self._sample = b""

    def has(self, filters: Array) -> bool:
        """Return whether it was made of these.

        Raises
        ------
        ValueError
            It was, and they have changed since: some of their numbers are looked at.
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
        """Have something made anew: before that begins, so that nothing half made is used."""
        self._filters = None

    def take(self, filters: Array) -> None:
        """Note what it is made of now.

        While the array is held no other one can have its address.
        """
        self._sample = _sample(filters)
        self._filters = filters


def _sample(filters: Array) -> bytes:
    flat = filters.reshape(-1)
    return flat[:: max(1, flat.size // SAMPLES) | 1].tobytes()
