"""``lowerconv predict --stream`` as a user calls it."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lowerconv.cli import latency_picture, stream
from lowerconv.cli.frame_networks import open_network
from lowerconv.cli.main import main
from lowerconv.cli.stream_report import StreamReport
from lowerconv.data.ahead import Waiting
from lowerconv.data.frames import Frame
from lowerconv.train import Classifier
from tests.cli.frames import lines_of


def test_folders_get_the_classes_that_predict_tells(lenet, folder, capsys):
    assert main(["predict", str(lenet), "--stream", str(folder), "--loader-threads", "2"]) == 0
    told = capsys.readouterr()
    paths = [folder / f"f{i}.png" for i in range(12)]
    classifier = Classifier(lenet)
    rows = classifier.probabilities(np.stack([classifier.read(path) for path in paths]))
    assert lines_of(told.out) == [
        (path.name, f"{row.max():.2%} {classifier.inputs.classes[row.argmax()]}")
        for path, row in zip(paths, rows, strict=True)
    ]
    report = told.err.splitlines()
    assert re.match(r"12 frames of 1x28x28 in .* s: .* frames/s on \d+ thread", report[0])
    assert report[1].split() == ["ms", "p50", "p90", "p99", "max"]
    for line, name in ((report[2], "answer"), (report[3], "end to end")):
        assert re.fullmatch(rf"{name}( +\d+\.\d\d){{4}}", line)
    assert any(line.startswith("memory: ") for line in report) or sys.platform != "linux"


def test_raw_frames_get_the_same_answers_as_files(lenet, folder, pixels, stdin, capsys):
    assert main(["predict", str(lenet), "--stream", str(folder)]) == 0
    expected = [answer for _, answer in lines_of(capsys.readouterr().out)]
    stdin(pixels.tobytes())
    assert main(["predict", str(lenet), "--stream", "-", "--size", "50x40"]) == 0
    assert lines_of(capsys.readouterr().out) == [(str(i), a) for i, a in enumerate(expected)]


def test_damaged_frames_are_named_and_counted(lenet, pixels, stdin, tmp_path, capsys):
    stdin(pixels.tobytes()[:-1])
    assert main(["predict", str(lenet), "--stream", "-", "--size", "50x40"]) == 1
    told = capsys.readouterr()
    assert len(lines_of(told.out)) == 11
    assert told.err.startswith("lowerconv: error: stdin: frame 11: found 5,999 bytes")
    assert "1 frame damaged, and left out" in told.err
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    assert main(["predict", str(lenet), "--stream", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.count("lowerconv: error: ") == 8 and "no frame was answered" in told
    Image.fromarray(pixels[0]).save(tmp_path / "5.jpg")
    assert main(["predict", str(lenet), "--stream", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert [name for name, _ in lines_of(told.out)] == ["5.jpg"]
    assert "7 frames damaged, and left out" in told.err


def test_mistakes_are_told_in_a_line(lenet, folder, tmp_path, stdin, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    picture = str(folder / "f0.png")
    raw = ["--stream", "-", "--size", "50x40"]
    frames = ["--stream", str(folder)]
    stdin(b"")
    for words, message in (
        ([], "predict: expected either images or --stream"),
        ([picture, *frames], "predict: expected either images or --stream"),
        ([picture, "--size", "50x40"], "--size: is for --stream"),
        ([picture, "--fps", "5"], "--fps: is for --stream"),
        (["--stream", "-"], "--size: got none, expected WxH"),
        ([*frames, "--size", "50x40"], f"--size: got one for {folder}, expected one only"),
        (["--stream", str(tmp_path / "none")], "none: directory: found nothing"),
        (["--stream", str(tmp_path / "empty")], "empty: folder: found no images"),
        (raw, "--stream: -: no frame came"),
        ([*frames, "--loader-threads", "-1"], "--loader-threads: got -1"),
        ([*frames, "--plot", "p.what"], "expected a name that ends in one of"),
        ([*frames, "--plot", str(tmp_path / "none" / "p.png")], "none: no such folder"),
    ):
        if "--plot" in words:
            pytest.importorskip("matplotlib", reason="draws")
        assert main(["predict", str(lenet), *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("lowerconv: error: ") and message in line
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", str(lenet), *raw]) == 1
    assert "stdin is closed" in capsys.readouterr().err
    monkeypatch.setattr(latency_picture, "available", lambda: False)
    assert main(["predict", str(lenet), *frames, "--plot", "p.png"]) == 1
    assert "--plot: matplotlib is not installed: pip install" in capsys.readouterr().err
    for words in (["--size", "50"], ["--size", "0x5"], ["--fps", "nan"], ["--fps", "0"]):
        with pytest.raises(SystemExit):
            main(["predict", str(lenet), "--stream", "-", *words])
        assert "expected" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--whole: is for checkpoints"):
        open_network(Path("net.onnx"), whole=True)


class Clock:
    """A clock that goes on when somebody sleeps or computes."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("took", "answered", "late"),
    [
        # Frames come every 10 ms; what each takes in ms, which are answered, how many late.
        ([4] * 8, [0, 1, 2, 3, 4, 5, 6, 7], 0),
        ([25, 4, 4, 4, 4], [0, 2, 3, 4, 5, 6, 7], 1),  # 1 would begin 15 ms after it came
        ([12, 12, 4, 4, 4, 4, 4, 4], [0, 1, 2, 3, 4, 5, 6, 7], 2),
        ([17] * 5, [0, 1, 3, 5, 6], 5),
    ],
)
def test_frames_a_second(monkeypatch, took, answered, late):
    clock = Clock()
    for module in ("stream", "stream_report"):
        monkeypatch.setattr(
            f"lowerconv.cli.{module}.time",
            SimpleNamespace(perf_counter=clock.perf_counter, sleep=clock.sleep),
        )
    pending = [1] * stream.WARM + [*took, 4, 4, 4]

    class Network:
        def answer(self, pixels):
            clock.now += pending.pop(0) / 1e3
            return "an answer"

    class Given:
        in_turn = True

        def jobs(self, taker):
            for i in range(8):
                yield lambda i=i: Frame(str(i), np.zeros((3, 4, 5), np.uint8), 0.0)

        def stop(self):
            pass

        close = stop

    found, report = [], StreamReport(fps=100)
    stream.answer_all(Network(), Given(), report, found.append, fps=100)
    assert [int(line.split(":")[0]) for line in found] == answered
    assert report.dropped == 8 - len(answered) and report.late == late
    assert report.whole.worst >= report.answers.worst
    text = str(report)
    assert ("dropped: " in text) == (report.dropped > 0)
    assert ("late: answered after the 10.0 ms" in text) == (late > 0)


def test_the_picture(lenet, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws")
    picture = tmp_path / "latencies.svg"
    assert main(["predict", str(lenet), "--stream", str(folder), "--plot", str(picture)]) == 0
    assert picture.read_text().startswith("<?xml")
    assert "12 frames of 1x28x28" in capsys.readouterr().err


def test_a_report_of_several_streams(monkeypatch):
    sizes = iter([100, 300, 0, 50])
    monkeypatch.setattr("lowerconv.cli.stream_report.resident_memory", lambda: next(sizes) << 20)
    report = StreamReport()
    for _ in range(2):
        report.begin(1.0)
        for _ in range(20):
            report.answered(0.5, 1.0, (1, 2, 3))
        report.end(Waiting())
    assert report.answers.count == 40 and report.growth == 250 << 20
    text = str(report)
    assert text.startswith("40 frames of 1x2x3 in ")
    assert "memory: 0.0 MiB after 16 frames, 50.0 MiB at the end (+50.0 MiB)" in text
    assert "prepared with the first frame in 2.00 s" in text
    report.answered(0.5, 1.0, (1, 2, 4))
    assert str(report).startswith("41 frames of 1x2x4 and other sizes in ")


def test_long_streams_are_drawn_by_their_slowest_frames():
    report = StreamReport()
    for i in range(10_000):
        report.answers.add(5.0 if i == 7_003 else 1.0)
    at, worst = latency_picture.slowest(report.answers)
    assert len(at) <= latency_picture.POINTS and worst.max() == 5
    assert abs(at[worst.argmax()] - 7_003) < 10
