"""Latencies of a stream that may never end: a sample of bounded size, and what it says."""

from __future__ import annotations

from array import array

import numpy as np

from lowerconv.copying import not_copied

MOST = 1 << 18  # latencies that are kept
SHARES = (0.5, 0.9, 0.99)


@not_copied("make another, and add to it")
class Latencies:
    """Seconds that the answers of a stream took.

    All are kept at first.  When there are `most`, every second of them is dropped, and from then
    on every second one is kept, then every fourth, and so on: memory stays bounded, and the
    percentiles are those of a sample that is spread evenly.

    Parameters
    ----------
    most : int
        That are kept, at least 2.

    Attributes
    ----------
    count : int
        That were added.
    worst : float
        The largest of all.
    step : int
        The kept ones are those of numbers 0, step, 2 step, ...
    """

    def __init__(self, most: int = MOST) -> None:
        self.most, self.count, self.worst, self.step = most, 0, 0.0, 1
        self._kept = array("f")

    def add(self, seconds: float) -> None:
        """Add the next one."""
        if self.count % self.step == 0:
            if len(self._kept) == self.most:
                self._kept = self._kept[::2]
                self.step *= 2
            if self.count % self.step == 0:
                self._kept.append(seconds)
        self.worst = max(self.worst, seconds)
        self.count += 1

    @property
    def kept(self) -> np.ndarray:
        """The sample, in order of time: a copy."""
        return np.array(self._kept)

    def percentiles(self) -> tuple[float, ...]:
        """Return the median, the 90th and 99th percentile, as they occurred; none of nothing."""
        if not self._kept:
            return ()
        found = np.quantile(self.kept.astype(np.float64), SHARES, method="inverted_cdf")
        return tuple(found.tolist())
