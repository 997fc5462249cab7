"""How stale the weights were for which gradients have been computed."""

from __future__ import annotations

from typing import Any

from lowerconv.parallel.comm.communicator import Communicator


class Staleness:
    """Counts the updates that were missing in the weights, over an epoch and over the run.

    Parameters
    ----------
    bound : int
        How many may be missing.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._noted: list[tuple[float, int]] = []
        self._epoch: tuple[int, float, int] | None = None  # updates, their sum, the most
        self._run = (0, 0.0, 0)

    def note(self, missing: float, most: int) -> None:
        """Note a gradient of this rank.

        Parameters
        ----------
        missing : float
            Updates missing; parts of them where each rank's gradient is an update by itself.
        most : int
            How far behind the slowest rank was.
        """
        self._noted.append((missing, most))

    def end_epoch(self, communicator: Communicator) -> None:
        """Put together what all ranks have noted; all of them call it."""
        own = (
            len(self._noted),
            sum(missing for missing, _ in self._noted),
            max((most for _, most in self._noted), default=0),
        )
        self._noted.clear()
        counts, sums, most = zip(*communicator.gather(own), strict=True)
        self._epoch = sum(counts), sum(sums), max(most)
        n, total, worst = self._run
        self._run = n + self._epoch[0], total + self._epoch[1], max(worst, self._epoch[2])

    def metrics(self) -> dict[str, Any]:
        """Return mean and maximum of the last epoch, as `EpochMetrics` names them."""
        if self._epoch is None:
            return {}
        n, total, most = self._epoch
        return {"staleness_mean": total / max(1, n), "staleness_max": most}

    def report(self) -> list[str]:
        """Return those of the run, in words."""
        n, total, most = self._run
        if not n:
            return []
        return [
            f"staleness: {total / n:.2f} updates on average, at most {most}, of {self.bound} "
            "allowed"
        ]
