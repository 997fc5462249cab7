"""What `bench.scaling` has measured, as tables and as a picture."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lowerconv.bench.draw import DPI, HINT, Style, available, fill
from lowerconv.bench.interleaved import median_ratio
from lowerconv.bench.load import DISTURBED
from lowerconv.bench.show import plural
from lowerconv.train.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALONE = "alone"  # ranks that train without messages
# What runs must have in common to be compared.
SETTING = ("cpu", "cores", "threads", "hosts_made", "gbit", "scaling", "emulated", "set")
#                    colour, from light to dark; hatch; marker; line
STYLES = {
    ALONE: Style("#ffffff", "////", "x", ":"),
    "data": Style("#f2e08a", "", "v", "-"),
    "tree": Style("#8fc7a1", "....", "s", "--"),
    "model": Style("#3f87a6", "\\\\\\\\", "^", "-."),
    "owt": Style("#2d1152", "", "o", "-"),
    "spatial": Style("#c2603f", "oo", "D", "-"),
    "async": Style("#8a3a5f", "++", "P", "--"),
    "server": Style("#5c5c5c", "||", "X", "-."),
}


def merge(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put results of the same setting and number of ranks together, turn behind turn."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in results:
        key = (*_setting(result), result["ranks"], result["hosts"])
        if key not in found:
            found[key] = result | {"results": []}
        whole = found[key]
        whole["others"] = max(whole["others"], result["others"])
        for row in result["results"]:
            names = ("model", "parallel", "batch")
            same = [r for r in whole["results"] if all(r[n] == row[n] for n in names)]
            if same:
                for kind in ("turns", "still"):
                    same[0][kind] = same[0][kind] + row[kind]
            else:
                whole["results"].append(dict(row))
    return list(found.values())


def _setting(result: dict[str, Any]) -> tuple[Any, ...]:
    facts = result | {"hosts_made": result["gbit"] is not None}
    return tuple(str(facts[name]) for name in SETTING)


def seconds(row: dict[str, Any]) -> list[float]:
    """Return the seconds of a step, turn by turn."""
    return [turn["seconds"] for turn in row["turns"]]


def hidden(row: dict[str, Any]) -> float | None:
    """Return the share of communication that nobody waited for; None where there is none."""
    if not row["still"]:
        return None
    waits, most = (
        statistics.median(turn["waits"] for turn in row[kind]) for kind in ("turns", "still")
    )
    return max(0.0, 1 - waits / most) if most > 0 else None


def ratio(taken: Sequence[float], reference: Sequence[float]) -> float:
    """Return taken / reference: of turns in pairs, else of their medians."""
    if len(taken) == len(reference):
        return median_ratio(list(taken), list(reference))
    return statistics.median(taken) / statistics.median(reference)


def alone(results: Sequence[dict[str, Any]], model: str) -> dict[str, Any] | None:
    """Return the row of a network on ranks that train alone."""
    for result in results:
        for row in result["results"]:
            if row["model"] == model and row["parallel"] == ALONE:
                return row
    return None


def efficiency(
    row: dict[str, Any], result: dict[str, Any], reference: dict[str, Any] | None
) -> float | None:
    """Return images per second over those of as many ranks that train alone as the reference."""
    if reference is None:
        return None
    work = row["batch"] / (reference["batch"] * result["ranks"])
    return work * ratio(seconds(reference), seconds(row))


def efficiency_tables(results: Sequence[dict[str, Any]]) -> list[Table]:
    """Return a table for each setting: a row for each network, number of ranks and strategy."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault(_setting(result), []).append(result)
    return [_table(group) for group in groups.values()]


def _table(results: Sequence[dict[str, Any]]) -> Table:
    results = sorted(results, key=lambda result: result["ranks"])
    single = [result for result in results if result["ranks"] == 1]
    table = Table(
        title=heading(results),
        caption=_caption(results),
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for title in ("network", "strategy"):
        table.add_column(title, no_wrap=True)
    titles = ["ranks", "batch", "ms", "images/s", "sent MB", "hidden", "efficiency"]
    for title in titles + (["to one rank"] if single else []):
        table.add_column(title, justify="right", no_wrap=True)
    for model in dict.fromkeys(row["model"] for r in results for row in r["results"]):
        for result in results:
            for row in result["results"]:
                if row["model"] == model:
                    table.add_row(*_cells(row, result, alone(single, model), bool(single)))
        table.add_section()
    return table


def _cells(
    row: dict[str, Any], result: dict[str, Any], first: dict[str, Any] | None, single: bool
) -> list[str]:
    ranks = result["ranks"]
    apart = row["parallel"] == ALONE
    taken = statistics.median(seconds(row))
    images = row["batch"] * (ranks if apart else 1)
    share = hidden(row)
    sent = statistics.median(turn["sent"] for turn in row["turns"])
    beside = None if apart else alone([result], row["model"])
    found = efficiency(row, result, beside)
    cells = [
        row["model"],
        row["parallel"] if ranks > 1 else "one rank",
        str(ranks),
        str(images),
        f"{1e3 * taken:,.1f}",
        f"{images / taken:,.1f}",
        "" if apart else f"{sent / 1e6:,.1f}",
        "" if share is None else f"{share:.0%}",
        "" if found is None else f"{found:.1%}",
    ]
    if single:
        # Ranks that train alone do as much as all of the first one, each.
        whole = ratio(seconds(first), seconds(row)) if first and apart else None
        if first and not apart:
            whole = efficiency(row, result, first)
        cells.append("" if whole is None or ranks == 1 else f"{whole:.1%}")
    return cells


def heading(results: Sequence[dict[str, Any]]) -> str:
    """Return what was measured, and where."""
    result = results[0]
    parts = [f"{result['scaling']} scaling, {plural(result['threads'], 'thread')} a rank"]
    if result["gbit"] is not None:
        parts.append(f"hosts made on one machine, links of {result['gbit']:g} Gbit/s")
    elif max(r["hosts"] for r in results) > 1:
        parts.append(f"{max(r['hosts'] for r in results)} hosts")
    if result["emulated"]:
        gflops, gbytes = result["emulated"]
        parts.append(f"EMULATED computation: {gflops:g} GFLOP/s, {gbytes:g} GB/s")
    parts += result["set"]
    return f"{result['cpu']}, {plural(result['cores'], 'core')}\n" + "; ".join(parts)


def _caption(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "efficiency: images/s over those of as many ranks that train alone at the same time, "
        "without messages",
        "hidden: 1 - waits / waits of steps that send the same and compute nothing",
    ]
    crowded = [str(r["ranks"]) for r in results if r["ranks_here"] * r["threads"] > r["cores"]]
    if crowded:
        real = "messages and sums of all ranks share them" if results[0]["emulated"] else (
            "times are those of ranks that take turns: emulate computation instead"
        )  # fmt: skip
        lines.append(
            f"with {', '.join(crowded)} ranks there are more threads than the "
            f"{plural(results[0]['cores'], 'core')}: {real}"
        )
    if any(not row["in_turns"] for r in results for row in r["results"]):
        lines.append("not in turns: all networks together do not fit into memory")
    busiest = (
        max(r["others"] for r in results if r["ranks"] == 1) if results[0]["ranks"] == 1 else 0
    )
    if busiest > DISTURBED:
        lines.append(f"other processes used {busiest:.1f} cores while one rank was measured")
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw throughput by number of ranks, a panel for each network, with the hidden share.

    Raises
    ------
    RuntimeError
        matplotlib is not installed.
    ValueError
        Some results are of another setting.
    """
    if not available():
        raise RuntimeError(HINT)
    if len({_setting(result) for result in results}) > 1:
        raise ValueError("plot: got results of several settings, expected one: a file at a time")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for r in results for row in r["results"]))
    figure = Figure(figsize=(max(6, 4.2 * len(models)), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, model in enumerate(models):
        axes = figure.add_subplot(1, len(models), place + 1)
        _panel(axes, sorted(results, key=lambda r: r["ranks"]), model)
        if place == 0:
            axes.set_ylabel("images/s")
    # Which strategies a panel has may differ: one legend for all of them.
    known = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=len(known))
    title = heading(results).replace("; ", "\n") + "\nabove bars: communication hidden"
    figure.suptitle(title, fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    write_atomically(file, image.getvalue())


def _panel(axes: Axes, results: Sequence[dict[str, Any]], model: str) -> None:
    names = list(
        dict.fromkeys(r["parallel"] for x in results for r in x["results"] if r["model"] == model)
    )
    width = 0.84 / len(names)
    for place, name in enumerate(names):
        offset = (place - (len(names) - 1) / 2) * width
        there = [
            (i, row, result["ranks"])
            for i, result in enumerate(results)
            for row in result["results"]
            if (row["model"], row["parallel"]) == (model, name)
        ]
        heights = [
            row["batch"] * (ranks if name == ALONE else 1) / statistics.median(seconds(row))
            for _, row, ranks in there
        ]
        label = "without messages" if name == ALONE else name
        xs = [i + offset for i, _, _ in there]
        bars = axes.bar(xs, heights, width, label=label, **fill(STYLES[name]))
        shares = [hidden(row) for _, row, _ in there]
        axes.bar_label(
            bars, ["" if s is None else f"{s:.0%}" for s in shares], fontsize=7, padding=2
        )
    axes.set_xticks(range(len(results)), [plural(r["ranks"], "rank") for r in results])
    axes.set_title(model, fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
