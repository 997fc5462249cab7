"""Frames through a network, one at a time, as they come; decoded ahead by threads."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lowerconv.arguments import checked
from lowerconv.cli.frame_networks import Answerer, open_network
from lowerconv.cli.latency_picture import check_picture, draw
from lowerconv.cli.mistakes import EXPECTED, tell
from lowerconv.cli.stream_report import StreamReport
from lowerconv.closing import close_all
from lowerconv.data import DataError
from lowerconv.data.ahead import Stream, Threads
from lowerconv.data.frames import FolderFrames, Frame, Frames, RawFrames
from lowerconv.data.loader import WORKERS
from lowerconv.data.video import VideoFrames
from lowerconv.printable import printable

STDIN = "-"
WARM = 3  # runs of the first frame that do not count: from the third on all is prepared

Show = Callable[[str], object]


def open_frames(place: str, size: tuple[int, int] | None) -> Frames:
    """Return the frames of a folder, of a video file, or of stdin.

    Raises
    ------
    ValueError, ImportError, OSError
        There are none, or the size is missing or is for something else.
    """
    if place != STDIN:
        if size is not None:
            raise ValueError(f"--size: got one for {place}, expected one only for --stream -")
        return VideoFrames(place) if os.path.isfile(place) else FolderFrames(place)
    if size is None:
        raise ValueError("--size: got none, expected WxH, that of the frames from stdin")
    if sys.stdin is None or sys.stdin.isatty():
        found = "closed" if sys.stdin is None else "a terminal"
        raise ValueError(f"--stream -: stdin is {found}, expected raw frames")
    return RawFrames(sys.stdin.fileno(), size)


def answer_all(
    network: Answerer,
    frames: Frames,
    report: StreamReport,
    show: Show,
    workers: int = 1,
    fps: float | None = None,
) -> None:
    """Have a network answer all frames.

    Parameters
    ----------
    network : Answerer
    frames : Frames
        They are closed at the end, whatever happens.
    report : StreamReport
        What becomes of each frame is counted there.
    show : callable
        Called with what is to be printed of a frame.
    workers : int
        Threads that decode, of frames that need not be decoded in turn.
    fps : float, optional
        Frames that come in a second at most: each is handed out when it is its turn, and dropped
        where the next one is there already.
    """
    workers = min(workers, 1) if frames.in_turn else workers
    threads = Threads(workers)
    end = partial(report.end, threads.waiting)
    closers: list[Callable[[], object]] = [end, frames.stop, threads.close, frames.close]
    try:
        stream = Stream(threads, frames.jobs(network), workers + 1)
        _answer_all(network, stream, report, show, None if fps is None else 1 / fps)
    finally:
        try:
            close_all(closers)
        except KeyboardInterrupt:
            close_all(closers)
            raise


def _answer_all(
    network: Answerer,
    stream: Stream[Frame | DataError | None],
    report: StreamReport,
    show: Show,
    interval: float | None,
) -> None:
    due = 0.0  # when the next frame can come
    for frame in stream:
        if frame is None:
            return
        if isinstance(frame, DataError):
            report.damaged += 1
            tell(frame)
            continue
        if not report.begun:
            begin = time.perf_counter()
            for _ in range(WARM):
                network.answer(frame.pixels)
            due = time.perf_counter()  # those that have come meanwhile do not count from before
            report.begin(due - begin)
        frame = frame._replace(came=max(due, frame.came))
        if interval is not None:
            due = frame.came + interval
            time.sleep(max(0.0, frame.came - time.perf_counter()))
            if time.perf_counter() >= due:
                report.dropped += 1
                continue
        begin = time.perf_counter()
        text = network.answer(frame.pixels)
        end = time.perf_counter()
        show(f"{printable(frame.name)}: {text}, {1e3 * (end - begin):.2f} ms")
        report.answered(end - begin, time.perf_counter() - frame.came, frame.pixels.shape)


def run(options: argparse.Namespace) -> int:
    """Answer frames as told; returns the exit status, 1 if one was damaged."""
    report = StreamReport(options.fps)
    try:
        workers = checked("--loader-threads", WORKERS, options.loader_threads)
        if options.plot:
            check_picture(options.plot)
        network = open_network(options.checkpoint, options.whole)
        frames = open_frames(options.stream, options.size)
    except (*EXPECTED, ImportError) as error:
        return tell(error)
    status = 0
    try:
        answer_all(network, frames, report, _print, workers, options.fps)
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except (*EXPECTED, TypeError) as error:
        status = tell(error)
    except KeyboardInterrupt:
        _finish(report, options.plot)
        raise
    if not report.answers.count and not report.damaged and not status:
        return tell(ValueError(f"--stream: {options.stream}: no frame came"))
    return max(status, _finish(report, options.plot), int(report.damaged > 0))


def _print(text: str) -> None:
    print(text, flush=True)  # who reads it may wait for it


def _finish(report: StreamReport, picture: Path | None) -> int:
    """Print the report, where it does not mix with answers that go elsewhere, and draw it."""
    print(report, file=sys.stderr)
    if picture is not None and report.answers.count:
        try:
            draw(report, picture)
        except EXPECTED as error:
            return tell(error)
    return 0
