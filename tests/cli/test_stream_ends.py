"""How streams end, whatever their source does, and what they leave: no thread, file or memory."""

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc

import pytest

import lowerconv as lc
from lowerconv.cli import stream
from lowerconv.cli.frame_networks import Whole
from lowerconv.cli.stream_report import StreamReport
from lowerconv.data.frames import RawFrames
from tests.cli.frames import NORMALIZER, small

from ..conftest import clean_environment
from ..interrupts import interrupts


def start(lenet, *words, **options) -> subprocess.Popen:
    """Start a stream of frames from stdin."""
    command = [sys.executable, "-m", "lowerconv", "predict", str(lenet)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command += ["--stream", "-", "--size", "50x40", *words]
    return subprocess.Popen(command, env=clean_environment(), **pipes, **options)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_tells_what_has_been_done(lenet, pixels):
    run = start(lenet)
    run.stdin.write(pixels[:3].tobytes())  # and the pipe stays open
    run.stdin.flush()
    for i in range(3):
        assert run.stdout.readline().startswith(b"%d: " % i)
    run.send_signal(signal.SIGINT)
    out, err = run.stdout.read(), run.stderr.read().decode()
    assert run.wait(60) == 130 and out == b""
    # The third is counted when it has been printed.
    assert re.search("[23] frames of 1x28x28 in", err) and "answer " in err
    assert err.endswith("lowerconv: interrupted\n") and "Traceback" not in err
    run.stdin.close()


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_stream_ends_where_nobody_reads_its_answers(lenet, pixels):
    run = start(lenet)
    run.stdout.close()
    run.stdin.write(pixels[:2].tobytes())  # and the pipe stays open
    run.stdin.flush()
    err = run.stderr.read().decode()
    assert run.wait(60) == 141
    assert "Traceback" not in err and "Error" not in err
    run.stdin.close()


def data_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("lowerconv-data")]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts open files")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment_leave_nothing(watchdog, pixels):
    """The pipe is never closed: nothing waits for it."""

    class Fixed(Whole):
        def answer(self, pixels):
            return "an answer"

    fixed = Fixed(small(), NORMALIZER)
    places, made = [], []

    def prepare():
        for frames in made:
            frames.close()
        for place in places:
            os.close(place)
        places[:] = os.pipe()
        os.write(places[1], pixels[:2].tobytes())
        made[:] = [RawFrames(places[0], (50, 40))]

    def use():
        found = []

        def show(text):
            found.append(text)
            if len(found) == 2:
                raise KeyError

        try:
            stream.answer_all(fixed, made[0], StreamReport(), show)
        except KeyError:
            return

    prepare()
    use()
    before = len(os.listdir("/proc/self/fd"))
    # Where the pool is forgotten, Python ends it, and can tell nobody.
    for _ in interrupts(use, most=300, prepare=prepare, may_be_lost=True):
        assert data_threads() == []
        made[0].close()  # where they had not been handed over yet
        assert len(os.listdir("/proc/self/fd")) == before
    for place in places:
        os.close(place)


def test_memory_is_steady(pixels):
    """Of 1200 frames the last 200 leave nothing but their latencies, 8 bytes each.

    Where memory is looked at, the next frame has not come yet: none is in flight.  The first
    thousand fill what CPython and Numba keep for the next call, which tracemalloc counts.
    """
    reads, writes = os.pipe()
    looked = threading.Semaphore(0)

    def write():
        with open(writes, "wb", buffering=0) as pipe:
            for i in range(1200):
                pipe.write(pixels[i % 12].tobytes())
                if i in (1000, 1100):
                    looked.acquire()

    writer = threading.Thread(target=write)
    writer.start()
    snapshots = []
    ours = [tracemalloc.Filter(True, os.path.join(os.path.dirname(lc.__file__), "*"))]

    def show(text):
        if text.startswith(("1000:", "1100:", "1199:")):
            gc.collect()
            snapshots.append(tracemalloc.take_snapshot().filter_traces(ours))
            looked.release()

    report = StreamReport()
    whole = Whole(small(), NORMALIZER)
    tracemalloc.start()
    try:
        stream.answer_all(whole, RawFrames(reads, (50, 40)), report, show)
    finally:
        tracemalloc.stop()
        looked.release(2)  # where the stream ended early
        os.close(reads)
        writer.join()
    assert report.answers.count == 1200
    # A leak of one frame a frame is 1.2 MB, of one small object 12 kB.
    first, *later = snapshots
    for snapshot in later:
        grown = snapshot.compare_to(first, "lineno")
        assert sum(line.size_diff for line in grown) < 12_000, grown[:5]
