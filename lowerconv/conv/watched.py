"""Watching a convolution: which core lowers, packs and multiplies, and when.

From outside: pipelines with stages keep a log if they are given one (`lowerconv.conv.blas.stages`),
and the kernels of the fused engine are replaced by others that note when they are called
(`lowerconv.codegen.tracing`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from lowerconv.codegen.signatures import Pad, Tile, Transpose, TransposeTaps
from lowerconv.codegen.tracing import by_worker, new_log, watched
from lowerconv.conv.blas.pipelined import Pipelined
from lowerconv.conv.fused.forward import Forward
from lowerconv.conv.plan import ConvPlan
from lowerconv.copying import not_copied
from lowerconv.runtime.records import Operands

LINES = 100_000  # of a worker's log: more than a call of 100 ms has
LOWER, MULTIPLY, PACK, BACK = "lower", "multiply", "pack filters", "add back"
KINDS = (LOWER, MULTIPLY, PACK, BACK)

#   the two stages of a pass
STAGES = {
    "forward": (LOWER, MULTIPLY),
    "input_grad": (MULTIPLY, BACK),
    "weight_grad": (LOWER, MULTIPLY),
}
#   addresses in a record of the macro-kernel: what the functions do, and their signatures
KERNELS: dict[str, tuple[str, type]] = {
    "pad": (LOWER, Pad),
    "transpose": (PACK, Transpose),
    "transpose_taps": (PACK, TransposeTaps),
    "kernel": (MULTIPLY, Tile),
    "kernel_tail": (MULTIPLY, Tile),
    "kernel_last": (MULTIPLY, Tile),
    "kernel_last_tail": (MULTIPLY, Tile),
}

Event = tuple[int, str, int, int]  # worker, what it did, begin and end in nanoseconds


@not_copied("watch another plan")
class Watched:
    """A plan that tells what its workers do.

    Parameters
    ----------
    plan : ConvPlan
        Of algorithm "pipelined", "paired" or, but for weight gradients, "fused".  It is changed:
        give one that nobody else has.

    Raises
    ------
    ValueError
        Of any other algorithm.
    """

    def __init__(self, plan: ConvPlan) -> None:
        self.plan = plan
        inner = plan.executable
        if isinstance(inner, Pipelined):
            self._names: tuple[str, ...] = STAGES[plan.op]
            logs = np.zeros((inner.threads, LINES, 3), np.int64)
            inner.roles = inner.roles._replace(logs=logs)
            self._logs = list(logs)
        elif isinstance(inner, Forward):
            self._names = KINDS
            self._logs = [new_log(LINES) for _ in range(inner.schedule.workers)]
            self._jobs = [_watched_job(inner.job, log) for log in self._logs]
            self._table = np.array([job.ctypes.data for job in self._jobs], np.int64)
            inner.loops = by_worker(inner.loops, self._table, len(Operands._fields))
        else:
            raise ValueError(
                f"plan: got {plan.algorithm!r} for {plan.op}, which has no stages to watch"
            )

    def __call__(self, *operands: np.ndarray, out: np.ndarray) -> tuple[int, list[Event]]:
        """Run the plan; return the nanoseconds that took, and what its workers did in that time."""
        for log in self._logs:
            log[0, 0] = 0
        begin = time.monotonic_ns()
        self.plan(*operands, out=out)
        taken = time.monotonic_ns() - begin
        events = [
            (worker, self._names[kind], int(since) - begin, int(until) - begin)
            for worker, log in enumerate(self._logs)
            for kind, since, until in log[1 : log[0, 0] + 1]
        ]
        return taken, events


def _watched_job(job: np.ndarray, log: np.ndarray) -> np.ndarray:
    """Return a copy of a fused job whose kernels write to a log."""
    copy = job.copy()
    for field, (what, signature) in KERNELS.items():
        for phase in copy:  # what all phases share stands in the first
            if phase[field]:
                kind = KINDS.index(what)
                phase[field] = watched(int(phase[field]), signature, kind, log)
    return copy


def shares(events: Sequence[Event], span: int, workers: int) -> Mapping[str, float]:
    """Return the share of all workers' time that each kind of work took."""
    result = dict.fromkeys(KINDS, 0)
    for _, what, begin, end in events:
        result[what] += end - begin
    return {what: total / (span * workers) for what, total in result.items()}
