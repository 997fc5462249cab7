"""What a plan has decided, as text for people."""

from __future__ import annotations

from collections.abc import Mapping

from lowerconv.conv.problem import ConvProblem, Op


def problem_lines(problem: ConvProblem, op: Op, numbers: str) -> dict[str, str]:
    """Return what a pass has to compute; `numbers` says in words what images hold."""
    p = problem
    (top, bottom), (left, right) = p.padding
    m, n, k = p.gemm_shape(op)
    times = f", {p.groups} times" if p.groups > 1 else ""
    return {
        "pass": op,
        "image": f"N={p.N} C={p.C} H={p.H} W={p.W}, {numbers}",
        "filters": f"K={p.K} R={p.R} S={p.S}, stride {p.stride}, dilation {p.dilation}, "
        f"padding {top, bottom}, {left, right}, groups {p.groups}",
        "output": f"P={p.P} Q={p.Q}, {p.flops / 1e6:,.1f} MFLOP",
        "im2col product": f"m={m} n={n} k={k}{times}",
    }


def as_text(lines: Mapping[str, str]) -> str:
    """Return lines of names and texts, the names in a column."""
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())
