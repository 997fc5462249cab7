"""ONNX files of others: values beside ONNX Runtime, times beside ONNX Runtime and OpenVINO.

    python -m bench.onnx_files DIR|FILE... [--shape NAME=1x3x224x224] [--threads 2] [--rounds 5]
                               [--values] [--save FILE]

Takes `.onnx` files, and wheels and source archives as ``pip download`` leaves them; folders stand
for all that lie in them.  Nothing is fetched.  Inputs are arrays of `NAME.npz` beside `NAME.onnx`,
else a page of text or random numbers, for a batch of one; weights that a file makes from one number
are random, too.  Outputs differ by their largest difference over their largest item; above 1e-4 the
exit status is 1.  Times of the others, taking turns, are over ours: above 1 we are faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import lowerconv as lc
from bench.peers import is_missing, openvino, versions
from lowerconv.bench.interleaved import SETTLE, Run, geometric_mean, median_ratio, times
from lowerconv.bench.load import DISTURBED, Others
from lowerconv.cli.compare import TOLERANCE, difference
from lowerconv.cli.network_inputs import random_inputs, shape_argument, shapes_of
from lowerconv.onnx import OnnxNetwork, load
from lowerconv.onnx.fallback import open_session
from lowerconv.onnx.reader import read_model

OURS, ORT, OPENVINO = "lowerconv", "ONNX Runtime", "OpenVINO"
Shape = tuple[int, ...]
#        file: its inputs where extents are left open
SHAPES = {
    "ch_PP-OCRv4_det_infer": (1, 3, 736, 736),
    "ch_PP-OCRv4_rec_infer": (1, 3, 48, 320),
    "ch_ppocr_mobile_v2.0_cls_infer": (1, 3, 48, 192),
    "pnet": (1, 240, 320, 3),
}


def models(path: Path) -> Iterator[tuple[str, bytes, Path]]:
    """Yield name, content and folder of every ONNX file at a path."""
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.is_dir() or entry.suffix in (".onnx", ".whl", ".zip", ".gz"):
                yield from models(entry)
    elif path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as wheel:
            for name in sorted(n for n in wheel.namelist() if n.endswith(".onnx")):
                yield PurePath(name).stem, wheel.read(name), path.parent
    elif path.suffix == ".gz":
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                file = archive.extractfile(member) if member.name.endswith(".onnx") else None
                if file is not None:
                    yield PurePath(member.name).stem, file.read(), path.parent
    else:
        yield path.stem, path.read_bytes(), path.parent


def with_random_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose `ConstantOfShape` of known shapes are random tensors.

    Those that scale or are variances are around one, filters as wide as keeps variances, and a
    Softmax at the end is left out: of large numbers it would tell the largest alone.
    """
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    around_one, after = set(), {}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            around_one |= {node.input[1], node.input[4]}
        elif node.op_type == "Unsqueeze":
            after[node.output[0]] = node.input[0]
        elif node.op_type == "Mul":
            around_one |= {after.get(name, name) for name in node.input}
    rng = np.random.default_rng(0)
    made, left = [], []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            left.append(node)
            continue
        shape, name = tuple(map(int, shapes[node.input[0]])), node.output[0]
        if len(shape) > 1:
            scale = (1.0 / max(1, int(np.prod(shape[1:])))) ** 0.5
            array = rng.standard_normal(shape, np.float32) * np.float32(scale)
        else:
            array = rng.uniform(-0.1, 0.1, shape) + (name in around_one)
        made.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(left)
    changed.graph.initializer.extend(made)
    if made and left[-1].op_type == "Softmax":
        del changed.graph.node[-1]
        changed.graph.output[0].name = left[-1].input[0]
    return changed


def page(shape: Shape) -> np.ndarray:
    """Return a page of text as images, -1 to 1; in noise no text is found: zeros are no test."""
    H, W = shape[2:] if shape[1] == 3 else shape[1:3]
    picture = Image.new("RGB", (W, H), "white")
    text = "\n".join(f"{i}. A page of text, in lines of words" for i in range(1, 1 + H // 24))
    ImageDraw.Draw(picture).text((8, 4), text, "black", ImageFont.load_default(24))
    pixels = np.asarray(picture, np.float32) / 127.5 - 1
    image = pixels.transpose(2, 0, 1) if shape[1] == 3 else pixels
    return np.ascontiguousarray(np.broadcast_to(image, shape))


def inputs_of(name: str, folder: Path, net: OnnxNetwork, shapes: dict[str, list[Shape]]) -> Any:
    """Return the inputs of a network as a list of arrays."""
    given = folder / f"{name}.npz"
    if given.exists():
        with np.load(given) as arrays:
            return [arrays[i] for i in net.input_names]
    known = shapes.get(name) or ([SHAPES[name]] if name in SHAPES else None)
    arrays = random_inputs(net, shapes_of(net, known))
    pictures = (a.dtype == np.float32 and a.ndim == 4 and 3 in a.shape[1::2] for a in arrays)
    return [page(a.shape) if is_one else a for a, is_one in zip(arrays, pictures, strict=True)]


def measure(name: str, content: bytes, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return values and times of a file."""
    content = with_random_weights(read_model(content)[0]).SerializeToString()
    network = load(content)
    arrays = inputs_of(name, folder, network, options.shapes)
    session = open_session(content, "bench.onnx_files")
    feeds = dict(zip(network.input_names, arrays, strict=True))
    ours, theirs = network(*arrays), session.run(list(network.output_names), feeds)
    ours = ours if isinstance(ours, tuple) else (ours,)
    row: dict[str, Any] = {
        "name": name,
        "shapes": [array.shape for array in arrays],
        "difference": max(difference(a, b) for a, b in zip(ours, theirs, strict=True)),
    }
    if options.values:
        return row
    candidates: dict[str, Run] = {
        OURS: lambda: network(*arrays),
        ORT: lambda: session.run(None, feeds),
    }
    if not is_missing("openvino"):
        candidates[OPENVINO] = openvino(content, feeds, lc.get_num_threads())
    others = Others()
    settle = SETTLE if lc.get_num_threads() > 1 else 0.0
    row["seconds"] = times(candidates, options.seconds, settle, options.rounds)
    row["others"] = others.cores()
    return row


def ratio(row: dict[str, Any], peer: str) -> float | None:
    """Return the time of another over ours, None where there is none."""
    taken = row.get("seconds", {})
    return median_ratio(taken[peer], taken[OURS]) if peer in taken else None


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of all files."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("file")
    for title in ("input", "difference", "ms", ORT, OPENVINO):
        table.add_column(title, justify="right")
    for row in rows:
        shape = ", ".join("x".join(map(str, shape)) for shape in row["shapes"])
        seconds = row.get("seconds")
        ms = f"{1e3 * statistics.median(seconds[OURS]):.2f}" if seconds else ""
        ratios = (ratio(row, peer) for peer in (ORT, OPENVINO))
        cells = (f"{r:.2f}" if r is not None else "" for r in ratios)
        table.add_row(row["name"], shape, f"{row['difference']:.1e}", ms, *cells)
    table.add_section()
    for title, total in (("geometric mean", geometric_mean), ("least", min)):
        found = [[r for row in rows if (r := ratio(row, p)) is not None] for p in (ORT, OPENVINO)]
        if any(found):
            table.add_row(title, "", "", "", *(f"{total(c):.2f}" if c else "" for c in found))
    return table


def main() -> int:
    """Measure all files and print a table; returns the exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR|FILE")
    parser.add_argument("--shape", action="append", default=[], metavar="NAME=SHAPE")
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5, help="at least (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a file (%(default)s)")
    parser.add_argument("--values", action="store_true", help="compare values alone")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all times as JSON")
    options = parser.parse_args()
    options.shapes = {}
    for text in options.shape:
        name, _, shape = text.partition("=")
        options.shapes.setdefault(name, []).append(shape_argument(shape))
    lc.set_num_threads(options.threads)
    console = Console(width=100, markup=False, highlight=False)
    console.print(lc.machine_report()["cpu"]["name"], versions("openvino"), sep=", ")
    rows, failed = [], False
    for path in options.paths:
        for name, content, folder in models(path):
            try:
                row = measure(name, content, folder, options)
            except (ValueError, TypeError, OSError, RuntimeError) as error:
                console.print(f"{name}: {error}")
                failed = True
                continue
            rows.append(row)
            failed |= row["difference"] > TOLERANCE
            console.print(name, f"difference {row['difference']:.1e}", sep=": ")
            if row.get("others", 0.0) > DISTURBED:
                console.print(f"{name}: measure again, other processes were at work")
    console.print(f"{options.threads} threads; {ORT}, {OPENVINO}: their time over ours")
    console.print(table_of(rows))
    if options.save:
        options.save.write_text(json.dumps({"command": sys.argv[1:], "rows": rows}) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
