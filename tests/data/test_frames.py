"""Frames of folders, pipes and videos: their order, their ends, and what is damaged."""

import os
import random
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from lowerconv.data import DataError
from lowerconv.data.ahead import Stream, Threads
from lowerconv.data.frames import FolderFrames, RawFrames, natural
from lowerconv.data.picture import damage_told, decode
from lowerconv.data.video import VideoFrames

SIZE = (5, 4)


class Pixels:
    """Takes pixels as they are."""

    def read(self, path):
        with damage_told(path):
            return np.asarray(decode(path))

    def take(self, pixels):
        return pixels.copy()


def drain(frames, workers=1) -> list:
    """Return what comes of all frames, decoded ahead."""
    threads = Threads(workers)
    found = []
    try:
        for frame in Stream(threads, frames.jobs(Pixels()), workers + 1):
            if frame is None:
                break
            found.append(frame)
    finally:
        frames.stop()
        threads.close()
        frames.close()
    return found


def raw(pixels, cut=0, size=SIZE):
    """Return what comes of frames that are written to a pipe piece by piece, the end cut off."""
    data = np.ascontiguousarray(pixels).tobytes()
    data = data[: len(data) - cut]
    reads, writes = os.pipe()

    def write():
        with open(writes, "wb", buffering=0) as pipe:
            start = 0
            while start < len(data):
                end = start + random.randrange(1, 100)
                pipe.write(data[start:end])
                start = end

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return drain(RawFrames(reads, size))
    finally:
        writer.join()
        os.close(reads)


def noise(count, size=SIZE):
    return np.random.default_rng(3).integers(0, 256, (count, *size[::-1], 3), np.uint8)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 300])
def test_raw_frames_come_whole_and_in_order(count):
    pixels = noise(count)
    found = raw(pixels)
    assert [frame.name for frame in found] == [str(i) for i in range(count)]
    assert all(np.array_equal(frame.pixels, p) for frame, p in zip(found, pixels, strict=True))
    times = [frame.came for frame in found]
    assert times == sorted(times)


@pytest.mark.parametrize("cut", [1, 59])
def test_a_frame_that_is_cut_off_is_named(cut):
    *whole, last = raw(noise(3), cut)
    assert len(whole) == 2 and isinstance(last, DataError)
    assert str(last) == (
        f"stdin: frame 2: found {60 - cut} bytes, then the end, expected 60, those of 5x4 pixels "
        "in rgb24"
    )


def test_raw_frames_of_a_file(tmp_path):
    pixels = noise(3)
    (tmp_path / "frames.rgb").write_bytes(pixels.tobytes())
    with open(tmp_path / "frames.rgb", "rb") as file:
        found = drain(RawFrames(file.fileno(), SIZE))
    assert np.array_equal([frame.pixels for frame in found], pixels)


def test_raw_frames_of_a_pipe_that_does_not_block():
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    pixels = noise(2)
    timer = threading.Timer(0.05, lambda: (os.write(writes, pixels.tobytes()), os.close(writes)))
    timer.start()
    assert np.array_equal([frame.pixels for frame in drain(RawFrames(reads, SIZE))], pixels)
    os.close(reads)


@pytest.mark.parametrize("written", [0, 30, 60])
def test_a_silent_pipe_is_not_waited_for_at_the_end(watchdog, written):
    reads, writes = os.pipe()
    before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    os.write(writes, bytes(written))
    frames, threads = RawFrames(reads, SIZE), Threads(1)
    stream = Stream(threads, frames.jobs(Pixels()), 2)
    assert [next(stream).name for _ in range(written // 60)] == ["0"] * (written // 60)
    frames.stop()
    assert next(stream) is None
    threads.close()
    frames.close()
    frames.close()  # bears it
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) == before
    os.close(reads)
    os.close(writes)


def test_names_are_sorted_as_people_count():
    names = ["a10.png", "a9.png", "a09.png", "b1-2.png", "b1-10.png", "10.png", "9.png", "x.png"]
    expected = ["9.png", "10.png", "a09.png", "a9.png", "a10.png", "b1-2.png", "b1-10.png", "x.png"]
    assert sorted(names, key=natural) == expected
    names.reverse()
    assert sorted(names, key=natural) == expected


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_folders_in_order_with_damaged_files_between(tmp_path, workers):
    pixels = noise(12)
    for i in range(12):
        Image.fromarray(pixels[i]).save(tmp_path / f"frame{i}.png")
    damaged = [2, 3, 4, 5, 6, 11]  # more than are decoded ahead
    for i in damaged:
        (tmp_path / f"frame{i}.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_bytes(b"no frame")
    (tmp_path / "folder.png").mkdir()
    found = drain(FolderFrames(tmp_path), workers)
    assert len(found) == 12
    for i, frame in enumerate(found):
        if i in damaged:
            assert str(frame).startswith(f"{tmp_path / f'frame{i}.png'}: image: found ")
        else:
            assert frame.name == f"frame{i}.png" and np.array_equal(frame.pixels, pixels[i])


def test_folders_without_frames(tmp_path):
    with pytest.raises(DataError, match=r"none: directory: found nothing, expected a directory"):
        FolderFrames(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no frame")
    with pytest.raises(DataError, match=r"folder: found no images, expected files .*\.png"):
        FolderFrames(tmp_path)


def test_without_the_package_videos_are_refused_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install 'lowerconv\[video\]'"):
        VideoFrames(tmp_path / "clip.mp4")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return a video of grey frames, each lighter than the one before, with a white corner."""
    av = pytest.importorskip("av", reason="writes videos")
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.bit_rate = 64, 48, 10**7
        for i in range(30):
            pixels = np.full((48, 64, 3), 5 * i, np.uint8)
            pixels[:16, :16] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_videos(clip):
    found = drain(VideoFrames(clip))
    assert [frame.name for frame in found] == [str(i) for i in range(30)]
    for i, frame in enumerate(found):
        assert frame.pixels.shape == (48, 64, 3)
        assert abs(frame.pixels[20:, 20:].mean() - 5 * i) < 4
        assert frame.pixels[:12, :12].min() > 230


def test_videos_that_players_turn(clip, tmp_path):
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    # As phones write it that are held upright: by 90 degrees with the clock.
    turned = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    data = clip.read_bytes()
    at = data.index(upright, data.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(data[:at] + turned + data[at + len(upright) :])
    first = drain(VideoFrames(tmp_path / "turned.mp4"))[0]
    assert first.pixels.shape == (64, 48, 3)
    assert first.pixels[:12, -12:].min() > 230  # what was at the left is at the right


def test_videos_that_are_none(clip, tmp_path):
    (tmp_path / "text.mp4").write_text("no video" * 100)
    with pytest.raises(DataError, match=r"text.mp4: frame 0: found .* expected a readable video"):
        VideoFrames(tmp_path / "text.mp4")
    data = bytearray(clip.read_bytes())
    (tmp_path / "short.mp4").write_bytes(data[: len(data) // 3])
    with pytest.raises(DataError, match=r"short.mp4: frame 0"):
        drain(VideoFrames(tmp_path / "short.mp4"))
