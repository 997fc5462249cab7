"""How much of a convolution is lowering, for plans that can be watched."""

from __future__ import annotations

import numpy as np

from lowerconv.conv.executable import Options
from lowerconv.conv.plan import ConvPlan
from lowerconv.conv.watched import MULTIPLY, Watched, shares

CALLS = 2  # of which the quicker counts: the first fills caches


def lowering_share(plan: ConvPlan) -> float | None:
    """Return the share of all threads' time that lowers, packs and adds back.

    A twin of the plan is run, on arrays of its own.

    Parameters
    ----------
    plan : ConvPlan

    Returns
    -------
    float or None
        None of plans without stages to watch: those of Winograd and the loop nest, the weight
        gradients of the fused engine, and empty batches.
    """
    problem = plan.problem
    twin = ConvPlan(problem, plan.op, Options(algorithm=plan.algorithm))
    try:
        watched = Watched(twin)
    except ValueError:
        return None
    # Ones: what memory happens to hold may be denormal numbers, which are slow.
    first, second = (np.ones(o.shape, problem.dtype) for o in twin.call.operands)
    out = np.empty(twin.result_shape, problem.dtype)
    span, events = min(
        (watched(first, second, out=out) for _ in range(CALLS)), key=lambda call: call[0]
    )
    workers = max([twin.threads, *(worker + 1 for worker, *_ in events)])
    found = shares(events, span, workers)
    return sum(share for what, share in found.items() if what != MULTIPLY)
