"""Frames in real time: latencies and frames a second of networks, one image at a time.

    python -m bench.stream [NETWORK...] [--sizes 1280x720 1920x1080] [--frames 50] [--rounds 3]
                           [--threads 2] [--plot FILE.png]

A network is a checkpoint that takes whole frames of any size (of float or integer weights), or an
ONNX file; ``trunk`` is ResNet-18 without its classifier, in float32, of random weights, and
``trunk-int8`` the same in 8-bit integers: both where none is given.  Frames are random ones in
memory, handed through a pipe as ``lowerconv predict --stream -`` reads them; networks take turns, a
round of all frames each, and what is printed is of all rounds together.  The last column is how
many times as many frames a second as the first network has.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

import lowerconv as lc
from lowerconv import nn
from lowerconv.bench.load import DISTURBED, Others
from lowerconv.bench.show import plural
from lowerconv.cli.frame_networks import Answerer, Whole, open_network
from lowerconv.cli.latency_picture import check_picture, draw
from lowerconv.cli.predict import size_argument
from lowerconv.cli.stream import answer_all
from lowerconv.cli.stream_report import StreamReport
from lowerconv.console import PlainConsole
from lowerconv.data.frames import RawFrames
from lowerconv.data.normalizer import Normalizer
from lowerconv.nn.models import resnet18

TRUNK, INTEGERS = "trunk", "trunk-int8"
PICTURES = 4  # different ones
CALIBRATION = (4, 3, 224, 224)  # of trunk-int8
Size = tuple[int, int]


class Trunk(nn.Module):
    """ResNet-18 up to its last maps."""

    def __init__(self) -> None:
        super().__init__()
        self.network = resnet18()

    def forward(self, x: nn.Value) -> nn.Value:
        """Record the network for images x (N, 3, H, W)."""
        net = self.network
        x = net.maxpool(nn.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def network_of(name: str) -> Answerer:
    """Return what answers frames."""
    if name in (TRUNK, INTEGERS):
        rng = np.random.default_rng(0)
        network: nn.Module = Trunk()
        network.initialize(rng)
        # As of ImageNet.
        normalizer = Normalizer.of((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        pixels = rng.integers(0, 256, CALIBRATION, np.uint8)
        images = normalizer(pixels, np.arange(len(pixels)))
        network.run(images, nn.Step(training=True))  # for the statistics of batch norm
        return Whole(lc.quantize(network, images) if name == INTEGERS else network, normalizer)
    return open_network(Path(name), whole=not name.endswith(".onnx"))


def stream(network: Answerer, size: Size, frames: int, report: StreamReport) -> None:
    """Have a network answer random frames that come through a pipe as fast as they are read."""
    rng = np.random.default_rng(0)
    pictures = [rng.bytes(3 * size[0] * size[1]) for _ in range(PICTURES)]
    reads, writes = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), open(writes, "wb", buffering=0) as pipe:
            for i in range(frames):
                left = memoryview(pictures[i % PICTURES])
                while left:
                    left = left[pipe.write(left) or 0 :]

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        answer_all(network, RawFrames(reads, size), report, lambda _: None)
    finally:
        os.close(reads)  # ends the feeder, too
        feeder.join()


def main() -> int:
    """Measure, and print a table for each size; returns the exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("networks", nargs="*", default=[TRUNK, INTEGERS], metavar="NETWORK")
    sizes = [(1280, 720), (1920, 1080)]
    parser.add_argument("--sizes", nargs="+", type=size_argument, default=sizes, metavar="WxH")
    parser.add_argument("--frames", type=int, default=50, help="of a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--threads", type=int, default=lc.get_num_threads())
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="of the last network")
    options = parser.parse_args()
    if options.plot:
        check_picture(options.plot)
    lc.set_num_threads(options.threads)
    console = PlainConsole(100)
    console.print(lc.machine_report()["cpu"]["name"], plural(options.threads, "thread"), sep=", ")
    networks = {name: network_of(name) for name in options.networks}
    for size in options.sizes:
        reports = {name: StreamReport() for name in networks}
        others = Others()
        for _ in range(options.rounds):
            for name, network in networks.items():
                stream(network, size, options.frames, reports[name])
        console.print(table_of(size, reports))
        if others.cores() > DISTURBED:
            console.print("measure again, other processes were at work")
    if options.plot:
        draw(next(reversed(reports.values())), options.plot)
    return 0


def table_of(size: Size, reports: dict[str, StreamReport]) -> Table:
    """Return the table of a size of frames."""
    table = Table(title=f"{size[0]}x{size[1]}", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("network")
    for title in ("frames/s", "p50 ms", "p90", "p99", "max", "p99/p50", "MiB", "times"):
        table.add_column(title, justify="right", no_wrap=True)
    first = next(iter(reports.values())).rate
    for name, report in reports.items():
        p50, p90, p99 = report.answers.percentiles()
        times = (f"{1e3 * t:.2f}" for t in (p50, p90, p99, report.answers.worst))
        grown = f"{report.growth / 2**20:+.1f}" if report.growth is not None else ""
        ratios = f"{p99 / p50:.2f}", grown, f"{report.rate / first:.2f}"
        table.add_row(Path(name).name, f"{report.rate:.1f}", *times, *ratios)
    return table


if __name__ == "__main__":
    sys.exit(main())
