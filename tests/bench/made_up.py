"""Results that nobody has measured: every candidate takes the same time on every row.

There are four algorithms in them, however many the library has.
"""

import copy
import re
from typing import Any

from lowerconv.bench.case import Case, Options
from lowerconv.bench.result import Result, Row
from lowerconv.bench.tables import TABLES
from lowerconv.bench.training import PARTS

MS = {
    **{"direct": 16.0, "lowering": 4.0, "pipelined": 2.0, "fused": 1.0},
    **{"nn": 3.0, "auto": 5.0},
    **{"1": 6.0, "2": 3.0, "3": 2.0},
    **{"float32": 8.0, "bf16": 4.0, "fp16": 10.0, "int8": 2.0, "4 bits": 2.5, "ternary": 2.0},
}
MACHINE: dict[str, Any] = {
    "cpu": {"name": "Maker 9999", "architecture": "x86_64", "instruction_set": "avx512"},
    "cores": {
        "usable": {"cores": 3, "smt_threads": 6},
        "cpu_quota": None,
        "threads_in_use": 3,
    },
    "caches": [{"level": 3, "kind": "unified", "bytes": 1 << 25, "shared_by": 3, "count": 1}],
    "numa_nodes": [{"number": 0, "cpus": [0, 1, 2]}],
    "blas": [
        {"library": "openblas", "loaded_by": "scipy", "version": "0.3.30", "kernels": "SkylakeX"}
        | {"threads": 3, "path": "/somewhere/libopenblas.so"}
    ],
    "mpi": {"library": "MPICH"},
    "versions": {"lowerconv": "0.1.0", "numpy": "2.4.6", "mpi4py": "4.1.2"},
    "environment": {"NUMBA_CACHE_DIR": "/one"},
}
PEAK = 1e12
ROOFS = {"float32": PEAK, "bf16": 0.5 * PEAK, "int8": 4 * PEAK}
LITERATURE = {
    name: TABLES[name]
    for name in (
        *("cifar10", "googlenet", "alexnet", "threads", "training", "roofline", "precision"),
    )
}


def made_up(table: str, batch: int | None = None, layers: str = "", ratio: float = 1.0) -> Result:
    """Return a result of a table on three threads; `ratio` multiplies all times."""
    study = TABLES[table]
    options = Options(3, batch or study.batch, study.passes, re.compile(layers))
    return Result(
        table,
        {"threads": 3, "batch": options.batch, "seconds": 0.1},
        {"peak": PEAK, "read": 4e10, "triad": 5e10, **ROOFS},
        copy.deepcopy(MACHINE),
        tuple(
            _row(case, ratio)
            for case in study.cases(options)
            if case.labels.get("algorithm", "fused") in MS
        ),
    )


def _row(case: Case, ratio: float) -> Row:
    names = [name for name in case.names if name in MS]
    facts = case.facts | {"others": 0.0}
    if "model" in case.labels:
        # Half of a step in convolutions, the rest in equal parts.
        shares = {part: 0.5 if part == "convolution" else 0.5 / (len(PARTS) - 1) for part in PARTS}
        facts["details"] = {
            name: {
                "seconds": {part: share * MS[name] / 1e3 for part, share in shares.items()},
                "flops": 10**9,
            }
            for name in names
        }
    if "float32" in names:  # a network of 8 GFLOP, and fewer bytes with fewer bits
        numbers = {"flops": 8 * 10**9, "memory": 1 << 24}
        facts["details"] = {name: numbers | {"bytes": int(1e7 * MS[name])} for name in names}
    seconds = {name: [ratio * MS[name] / 1e3] * 3 for name in names}
    return Row(case.labels, seconds, facts)
