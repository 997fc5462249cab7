"""Whether the machine was ours while we measured: what other processes took of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lowerconv.copying import not_copied

DISTURBED = 0.1  # cores: more than the kernel's own work


def _busy(stat: Path) -> float:
    """Return the seconds that all CPUs have worked for anybody, or were taken by the hypervisor."""
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@not_copied("make another from its arguments")
class Others:
    """Cores that others have used since this was made; 0 where the system does not tell."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self.stat = stat if stat.exists() else None
        self.begin = self._now()

    def _now(self) -> tuple[float, float]:
        if self.stat is None:
            return time.perf_counter(), 0.0
        times = os.times()
        return time.perf_counter(), _busy(self.stat) - times.user - times.system

    def cores(self) -> float:
        """Return their average number."""
        (begin, before), (end, after) = self.begin, self._now()
        return max(0.0, after - before) / max(end - begin, 1e-9)
