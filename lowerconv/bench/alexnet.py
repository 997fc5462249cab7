"""AlexNet as in "One weird trick" (Krizhevsky 2014), forward and backward, beside GPUs of 2016.

What was published is the whole network, so pooling, activations and the fully connected layers are
measured as well, by those of `lowerconv.nn`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from lowerconv import nn
from lowerconv.bench import draw, published
from lowerconv.bench.case import Case, Options, layer_cases
from lowerconv.bench.cases import layers
from lowerconv.bench.interleaved import Run
from lowerconv.bench.passes import BACKWARD, problem
from lowerconv.bench.result import Result, total
from lowerconv.bench.show import caption, left_out, ms, new_table, ordered, times, title
from lowerconv.bench.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK = "alexnet_owt"
OTHERS = "others"  # the layers that are no convolutions
LIBRARY = "nn"  # who computes them
POOLED = ("conv1", "conv2", "conv5")
BATCH = 128  # the published one
HIDDEN, CLASSES = 4096, 1000
TRAINING = nn.Step(training=True, input_grad=True)


def cases(options: Options) -> list[Case]:
    """Return every convolution and pass, and all other layers together."""
    found = layer_cases(NETWORK, options)
    if options.layers.search(OTHERS):
        found += [
            Case(
                {"network": NETWORK, "layer": OTHERS, "pass": op},
                (LIBRARY,),
                partial(_other_runs, options.images, op),
                agree=False,
            )
            for op in options.passes
            if op in ("forward", BACKWARD)
        ]
    return found


def other_layers() -> list[tuple[nn.Module, tuple[int, int, int]]]:
    """Return what follows each convolution, and the shape of an image there."""
    blocks: list[tuple[nn.Module, tuple[int, int, int]]] = []
    for layer in layers(NETWORK):
        _, K, P, Q = problem(layer, 1).y_shape
        parts: list[nn.Module] = [nn.ReLU()]
        if layer.name in POOLED:
            parts.append(nn.MaxPool2d(3, 2))
        blocks.append((nn.Sequential(*parts), (K, P, Q)))
    last, (K, P, Q) = blocks.pop()
    classifier = nn.Sequential(
        last,
        nn.Flatten(),
        nn.Linear(K * ((P - 1) // 2) * ((Q - 1) // 2), HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, CLASSES),
    )
    return [*blocks, (classifier, (K, P, Q))]


def _other_runs(batch: int, op: str, names: Iterable[str]) -> dict[str, Run]:
    rng = np.random.default_rng(0)
    blocks: list[tuple[nn.Module, np.ndarray]] = [
        (block, rng.standard_normal((batch, *shape), np.float32)) for block, shape in other_layers()
    ]
    run = _Forward(blocks) if op == "forward" else _Backward(blocks)
    return dict.fromkeys(names, run)


class _Forward:
    """Calls compute the results of all blocks."""

    def __init__(self, blocks: list[tuple[nn.Module, np.ndarray]]) -> None:
        self.blocks = blocks

    def __call__(self) -> None:
        self.results = [block.run(x, TRAINING) for block, x in self.blocks]


class _Backward(_Forward):
    """Calls compute the gradients, each after a forward step, which is not timed."""

    def prepare(self) -> None:
        """Compute the results; what they are is as good as any gradient."""
        super().__call__()
        self.gradients = [result.copy() for result in self.results]

    def __call__(self) -> None:
        for (block, _), dy in zip(self.blocks, self.gradients, strict=True):
            block.backward(dy)


def _algorithms(result: Result) -> list[str]:
    return [name for name in ordered(result) if name != LIBRARY]


def _sums(result: Result, op: str, name: str) -> tuple[float | None, float | None]:
    """Return the seconds of all convolutions, and of the whole network where it was measured."""
    rows = result.where(**{"pass": op})
    convolutions = [row for row in rows if row.labels["layer"] != OTHERS]
    rest = [row for row in rows if row.labels["layer"] == OTHERS]
    own = total(convolutions, name) if convolutions else None
    whole = own is not None and rest and len(convolutions) == len(layers(NETWORK))
    return own, own + rest[0].median(LIBRARY) if own is not None and whole else None


def whole_network(result: Result) -> list[published.NetworkTime]:
    """Return the milliseconds of each algorithm, where everything was measured."""
    made = []
    for name in _algorithms(result):
        forward, backward = (_sums(result, op, name)[1] for op in ("forward", BACKWARD))
        if forward is not None and backward is not None:
            made.append(
                published.NetworkTime(
                    name, *(1e3 * s for s in (forward, backward, forward + backward))
                )
            )
    return made


def libraries(result: Result) -> list[published.NetworkTime]:
    """Return the published milliseconds, where the same was measured: all of it, and the batch."""
    return published.alexnet() if result.setting["batch"] == BATCH and whole_network(result) else []


def tables(result: Result) -> list[Table]:
    """Return milliseconds per layer, and of the network beside the published ones."""
    names, passes = _algorithms(result), result.values("pass")
    table = new_table(
        "AlexNet-OWT: ms",
        ["layer"],
        [f"{title(name)}\n{op}" for name in names for op in passes],
    )
    for layer in result.values("layer"):
        rows = {op: result.where(layer=layer, **{"pass": op}) for op in passes}
        cells = []
        for name in names:
            for op in passes:
                (row,) = rows[op] or (None,)
                which = LIBRARY if layer == OTHERS else name
                cells.append(ms(row.median(which) if row and which in row.seconds else None))
        table.add_row(layer, *cells)
    table.add_section()
    sums = [_sums(result, op, name) for name in names for op in passes]
    table.add_row("convolutions", *(ms(own) for own, _ in sums))
    table.add_row("whole network", *(ms(whole) for _, whole in sums))
    return [table, *_published(result)]


def _published(result: Result) -> list[Table]:
    ours = whole_network(result)
    if not ours:
        return []
    table = new_table(
        "AlexNet-OWT, whole network: ms",
        ["library", "device"],
        ["forward", "backward", "total", f"total / {min(ours, key=lambda own: own.total).library}"],
    )
    fastest = min(own.total for own in ours)
    everyone = [(there, "Titan X, 2016") for there in libraries(result)]
    everyone += [(own, "this machine") for own in ours]
    for entry, device in sorted(everyone, key=lambda pair: pair[0].total):
        table.add_row(
            entry.library,
            device,
            *(ms(value / 1e3) for value in (entry.forward, entry.backward, entry.total)),
            times(entry.total / fastest),
        )
    return [table]


def notes(result: Result) -> list[str]:
    """Return the lines below the tables."""
    return [
        *caption(result),
        *left_out(result),
        f"{OTHERS}: ReLU, pooling and the three fully connected layers, by lowerconv.nn, the same "
        "for every algorithm",
        "backward: gradients of images and filters, those of the first layer's images included, as "
        "in the published figures (github.com/soumith/convnet-benchmarks)",
        *([] if libraries(result) else [f"published: the whole network, batch {BATCH}"]),
    ]


def plot(result: Result, figure: Figure) -> None:
    """Draw the whole network, or what was measured of it, as bars made of two parts."""
    ours = whole_network(result)
    axes = figure.subplots()
    bars: list[tuple[str, published.NetworkTime]] = []
    if ours:
        bars += [(f"{own.library}, this machine", own) for own in ours]
        bars += [(f"{there.library}, Titan X 2016", there) for there in libraries(result)]
        bars.sort(key=lambda bar: bar[1].total)
        what = "whole network"
    else:
        for name in _algorithms(result):
            sums = [_sums(result, op, name)[0] for op in ("forward", BACKWARD)]
            forward, backward = (1e3 * (seconds or 0.0) for seconds in sums)
            if forward or backward:
                entry = published.NetworkTime(name, forward, backward, forward + backward)
                bars.append((name, entry))
        what = "convolutions that were measured"
    places = range(len(bars))
    forwards, backwards = [bar.forward for _, bar in bars], [bar.backward for _, bar in bars]
    axes.barh(places, forwards, label="forward", **draw.fill(draw.STYLES["fused"]))
    axes.barh(
        places, backwards, left=forwards, label="backward", **draw.fill(draw.STYLES["lowering"])
    )
    for place, (_, bar) in enumerate(bars):
        axes.text(bar.forward + bar.backward, place, f" {bar.total:.0f}", va="center")
    axes.set_yticks(places, [name for name, _ in bars])
    axes.invert_yaxis()
    longest = max((bar.total for _, bar in bars), default=1.0)
    axes.set_xlim(0, 1.1 * longest)  # room for the number behind the bar
    axes.set_xlabel(f"time of a batch, {what} (ms)")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(ncols=2, loc="outside lower center")
    figure.suptitle(draw.heading("AlexNet-OWT", result))


STUDY = Study(
    name="alexnet",
    summary="AlexNet-OWT: forward and backward, beside GPU libraries of 2016",
    cases=cases,
    tables=tables,
    notes=notes,
    draw=plot,
    batch=BATCH,
    passes=("forward", BACKWARD),
)
