"""``lowerconv tune``: measure how best to run layers on this CPU, and remember it."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from lowerconv.cli.doing import doing
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.console import PlainConsole
from lowerconv.conv.plan_conv2d import plan_conv2d
from lowerconv.conv.problem import DTYPES, OPS
from lowerconv.conv.wisdom import all_kept, check_writable, forget, wisdom_path
from lowerconv.nn import Conv2d
from lowerconv.nn.graph import Graph
from lowerconv.nn.init import undrawn
from lowerconv.nn.models import MODELS
from lowerconv.runtime.threads import get_num_threads, set_num_threads

GEOMETRY = ("stride", "padding", "dilation", "groups")
ONLY_WITH = {"model": ("batch", "input"), "x": ("w", *GEOMETRY)}


class Layer(NamedTuple):
    """A convolution to tune: its name, its shapes, and what else `plan_conv2d` takes."""

    name: str
    x_shape: tuple[int, ...]
    w_shape: tuple[int, int, int, int]
    geometry: dict[str, Any]
    bias: bool = False


def _integers(counts: tuple[int, ...], least: int, *words: str) -> Callable[[str], Any]:
    """Return a parser of ``"1,2"`` (`counts` says how many integers), of one integer or a word."""

    def parse(text: str) -> Any:
        if text in words:
            return text
        try:
            numbers = tuple(int(part) for part in text.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts or min(numbers) < least:
            expected = " or ".join([",".join("N" * count) for count in counts] + list(words))
            raise argparse.ArgumentTypeError(
                f"got {text}, expected {expected}, integers of at least {least}"
            )
        return numbers if len(numbers) > 1 else numbers[0]

    return parse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "tune",
        help="measure how best to run layers on this CPU, and remember it",
        description="Measure how best to run the convolutions of a model (--model), or one "
        "convolution (--x and --w), on this CPU, and remember it for all later processes.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", choices=MODELS, help="every convolution of this model")
    what.add_argument(
        "--x", type=_integers((3, 4), 1), metavar="N,C,H,W", help="one convolution: its images"
    )
    parser.add_argument(
        "--batch",
        type=_integers((1,), 1),
        metavar="N",
        help="images of one process, with --model; default: all of the model's own batch",
    )
    parser.add_argument(
        "--input",
        nargs=3,
        type=_integers((1,), 1),
        metavar=("C", "H", "W"),
        help="image, with --model; default: the model's own",
    )
    parser.add_argument(
        "--w", type=_integers((4,), 1), metavar="K,C,R,S", help="filters, C those of one group"
    )
    parser.add_argument("--stride", type=_integers((1, 2), 1), metavar="N", help="default: 1")
    parser.add_argument(
        "--padding", type=_integers((1, 2), 0, "same", "valid"), metavar="N", help="default: 0"
    )
    parser.add_argument("--dilation", type=_integers((1, 2), 1), metavar="N", help="default: 1")
    parser.add_argument("--groups", type=_integers((1,), 1), metavar="N", help="default: 1")
    parser.add_argument(
        "--passes", nargs="+", choices=OPS, default=OPS, metavar="PASS", help="of " + ", ".join(OPS)
    )
    parser.add_argument(
        "--threads",
        type=_integers((1,), 1),
        metavar="N",
        help="to tune for; default: LOWERCONV_NUM_THREADS, else OMP_NUM_THREADS, else one for each "
        "core this process may use",
    )
    parser.add_argument(
        "--dtype",
        choices=[dtype.name for dtype in DTYPES],
        default="float32",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--forget", action="store_true", help="first forget all that was measured on this CPU"
    )
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Tune what was asked for; returns the exit status."""
    console = PlainConsole(80)
    try:
        _check(options)
        if options.threads:
            try:
                set_num_threads(options.threads)
            except ValueError as error:
                raise ValueError(f"--threads: {error}") from None
        if options.forget:
            forget()
            _say(console, f"forgotten: {wisdom_path()}")
        if options.model or options.x:
            check_writable()  # before minutes of measuring
            _tune(options, console)
        return 0
    except EXPECTED as error:
        return tell(error)


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together."""
    if not (options.model or options.x or options.forget):
        raise ValueError("got neither --model nor --x, expected one of them, or --forget")
    if options.x and not options.w:
        raise ValueError("--x: got no --w, expected the filters beside the images")
    for leader, followers in ONLY_WITH.items():
        for name in followers:
            if getattr(options, name) is not None and not getattr(options, leader):
                raise ValueError(f"--{name}: got it without --{leader}, expected both")


def _tune(options: argparse.Namespace, console: PlainConsole) -> None:
    """Plan every pass of every layer, which measures where nothing is remembered yet."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(overflow="fold")  # wrapped, never cut off
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row("layer", "pass", "chosen", "ms", "runner-up", style="dim")
    with doing(console, "looking for the convolutions") as show:
        if options.model:
            layers = model_layers(options.model, options.batch, options.input)
        else:
            given = {name: getattr(options, name) for name in GEOMETRY}
            geometry = {name: value for name, value in given.items() if value is not None}
            layers = [Layer(_commas(options.w), options.x, options.w, geometry)]
        for layer in layers:
            for op in options.passes:
                show(f"{layer.name}, {op}")
                table.add_row(layer.name, op, *_measure(layer, op, options.dtype))
    threads = get_num_threads()
    _say(
        console,
        (f"{options.model}, " if options.model else "")
        + f"images {_commas(layers[0].x_shape)}, {options.dtype}, {threads} thread"
        + ("" if threads == 1 else "s"),
    )
    console.print(table)
    lost = "" if all_kept() else "not all of it could be "
    _say(console, f"{lost}remembered in {wisdom_path()}")


def _measure(layer: Layer, op: str, dtype: str) -> tuple[str, str, str, str]:
    """Return the last cells of a row: choice, milliseconds, ratio, where they are from."""
    choices: dict[str, Any] = {
        "op": op,
        "dtype": dtype,
        "bias": layer.bias and op == "forward",
        "tune": True,
    }
    plan: Any = plan_conv2d(layer.x_shape, layer.w_shape, **layer.geometry, **choices)
    if not plan.tuning:
        return plan.choice, "-", "-", "remembered"
    (name, seconds), *others = plan.tuning
    ratio = f"{others[0][1] / seconds:.2f} times" if others else "-"
    return name, f"{1e3 * seconds:.3f}", ratio, "measured"


def model_layers(
    model: str, batch: int | None = None, image_shape: Sequence[int] | None = None
) -> list[Layer]:
    """Return the convolutions of a model, in the order in which an image meets them.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    batch : int, optional
        Default: the one that the model is trained with.
    image_shape : (C, H, W), optional
        Default: the one that the model was made for.
    """
    build = MODELS[model].build
    if image_shape is None:
        image_shape = inspect.signature(build).parameters["image_shape"].default
    assert image_shape is not None
    with undrawn():
        network = build(tuple(image_shape))
    graph = Graph(network, (batch or MODELS[model].batch, *image_shape), np.float32, False)
    names = {id(module): name for name, module in network.modules()}
    met: list[Layer] = []
    for node in graph.nodes:
        layer = node.layer
        if isinstance(layer, Conv2d):
            geometry = dict(zip(GEOMETRY, layer.geometry, strict=True))
            filters = layer.weight.data.shape
            label = f"{names[id(layer)]}: {_commas(filters)}"
            shape = node.operands[0].shape
            met.append(Layer(label, shape, filters, geometry, layer.bias is not None))
    return met


def _commas(shape: Iterable[int]) -> str:
    """Write a shape as ``--x`` and ``--w`` take it."""
    return ",".join(map(str, shape))


def _say(console: PlainConsole, text: str) -> None:
    console.print(text, soft_wrap=True)
