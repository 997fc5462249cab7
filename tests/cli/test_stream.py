"""``lowerconv predict --stream`` as a user calls it."""

import os
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lowerconv import nn
from lowerconv.cli import latency_picture, stream
from lowerconv.cli.frame_networks import SIZES, Whole, describe, open_network
from lowerconv.cli.main import main
from lowerconv.cli.stream_report import StreamReport
from lowerconv.data import Normalizer
from lowerconv.data.frames import FolderFrames, Frame, RawFrames
from lowerconv.train import Classifier, Trainer
from lowerconv.train.progress import Reporter

from ..conftest import clean_environment
from ..interrupts import interrupts

NORMALIZER = Normalizer.of([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
LINE = re.compile(r"(\S+): (.*), \d+\.\d\d ms")


@pytest.fixture(scope="module")
def trained(tiny_fashion, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    Trainer("lenet", f"fashion-mnist:{tiny_fashion}", out, reporter=Reporter(), epochs=1).fit()
    return out / "best.safetensors"


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (12, 40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(pixels, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"f{i}.png")
    return folder


@pytest.fixture
def stdin(monkeypatch):
    """Return a function that has stdin give some bytes, then the end."""
    opened = []

    def give(data: bytes) -> None:
        reads, writes = os.pipe()

        def write() -> None:
            with open(writes, "wb") as pipe:
                pipe.write(data)

        opened.append((threading.Thread(target=write), open(reads, "rb")))  # noqa: SIM115
        opened[-1][0].start()
        monkeypatch.setattr(sys, "stdin", opened[-1][1])

    yield give
    for thread, file in opened:
        file.close()
        thread.join()


def small(classes=4, pool=True) -> nn.Module:
    """Return a network of images of any size."""
    last = (nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(6, classes)) if pool else ()
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), *last)
    net.initialize(np.random.default_rng(1))
    return net


def normalised(picture) -> np.ndarray:
    return NORMALIZER(np.ascontiguousarray(picture.transpose(2, 0, 1))[None], np.zeros(1, int))


def lines_of(text) -> list[tuple[str, str]]:
    return [LINE.fullmatch(line).groups() for line in text.splitlines()]


def test_folders_get_the_classes_that_predict_tells(trained, folder, capsys):
    assert main(["predict", str(trained), "--stream", str(folder), "--loader-threads", "2"]) == 0
    told = capsys.readouterr()
    paths = [folder / f"f{i}.png" for i in range(12)]
    classifier = Classifier(trained)
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


def test_raw_frames_get_the_same_answers_as_files(trained, folder, pixels, stdin, capsys):
    assert main(["predict", str(trained), "--stream", str(folder)]) == 0
    expected = [answer for _, answer in lines_of(capsys.readouterr().out)]
    stdin(pixels.tobytes())
    assert main(["predict", str(trained), "--stream", "-", "--size", "50x40"]) == 0
    assert lines_of(capsys.readouterr().out) == [(str(i), a) for i, a in enumerate(expected)]


def test_damaged_frames_are_named_and_counted(trained, pixels, stdin, tmp_path, capsys):
    stdin(pixels.tobytes()[:-1])
    assert main(["predict", str(trained), "--stream", "-", "--size", "50x40"]) == 1
    told = capsys.readouterr()
    assert len(lines_of(told.out)) == 11
    assert told.err.startswith("lowerconv: error: stdin: frame 11: found 5,999 bytes")
    assert "1 frame damaged, and left out" in told.err
    for i in range(8):
        (tmp_path / f"{i}.jpg").write_bytes(b"no image")
    assert main(["predict", str(trained), "--stream", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told.count("lowerconv: error: ") == 8 and "no frame was answered" in told
    Image.fromarray(pixels[0]).save(tmp_path / "5.jpg")
    assert main(["predict", str(trained), "--stream", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert [name for name, _ in lines_of(told.out)] == ["5.jpg"]
    assert "7 frames damaged, and left out" in told.err


@pytest.mark.parametrize("pool", [True, False])
def test_whole_frames(pixels, folder, pool):
    net, found = small(pool=pool), []
    classes = ("a", "b\n", "c", "d") if pool else ()
    whole = Whole(net, NORMALIZER, classes)
    stream.answer_all(whole, FolderFrames(folder), StreamReport(), found.append)
    for picture, line in zip(pixels, found, strict=True):
        (scores,) = net(normalised(picture)).astype(float)
        answer = LINE.fullmatch(line)[2]
        if pool:
            powers = np.exp(scores - scores.max())
            name = ("a", r"b\n", "c", "d")[scores.argmax()]
            assert answer.endswith(f"% {name}")
            assert float(answer.split("%")[0]) == pytest.approx(
                100 * powers.max() / powers.sum(), abs=0.006
            )
        else:
            means = scores.mean((1, 2))
            begin = "float32 1x6x19x24, largest mean "
            assert answer.startswith(begin) and answer.endswith(f" of {means.argmax()}")
            number = float(answer.removeprefix(begin).split()[0])
            assert number == pytest.approx(means.max(), rel=1e-3)


def test_frames_of_many_sizes():
    rng, net = np.random.default_rng(0), small(pool=False)
    whole = Whole(net, NORMALIZER)
    for _ in range(2):
        for size in range(8, 8 + 2 * SIZES):
            picture = rng.integers(0, 256, (size, size + 1, 3), np.uint8)
            assert f"1x6x{(size - 1) // 2}x{size // 2}," in whole.answer(whole.take(picture))
    assert len(whole._compiled) == SIZES


def test_networks_that_take_one_size_alone_say_so(trained, folder, capsys):
    assert main(["predict", str(trained), "--stream", str(folder), "--whole"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("lowerconv: error: ") and "Traceback" not in told


def onnx_file(path, shape, pool) -> Path:
    """Write an ONNX file that declares a shape; return it."""
    onnx = pytest.importorskip("onnx", reason="reads ONNX files")
    small(pool=pool).save_onnx(path, (1, 3, 40, 50))
    model = onnx.load(path)
    for place, extent in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        place.Clear()
        if isinstance(extent, int):
            place.dim_value = extent
        else:
            place.dim_param = extent
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("shape", [(1, 3, 40, 50), ("n", 3, "h", "w"), (1, 3, 20, 25)])
def test_onnx_files(pixels, folder, tmp_path, stdin, capsys, shape):
    path = onnx_file(tmp_path / "net.onnx", shape, pool=False)
    net = small(pool=False)
    assert main(["predict", str(path), "--stream", str(folder)]) == 0
    answers = [answer for _, answer in lines_of(capsys.readouterr().out)]
    stdin(pixels.tobytes())
    assert main(["predict", str(path), "--stream", "-", "--size", "50x40"]) == 0
    assert [answer for _, answer in lines_of(capsys.readouterr().out)] == answers
    for picture, answer in zip(pixels, answers, strict=True):
        image = Image.fromarray(picture)
        if shape[2] == 20:
            image = image.resize((25, 20), Image.Resampling.BILINEAR)
        x = np.asarray(image).transpose(2, 0, 1)[None] / np.float32(255)
        means = net(x.astype(np.float32))[0].mean((1, 2))
        assert answer.endswith(f"largest mean {means.max():.4g} of {means.argmax()}")


def test_what_a_result_is_like():
    maps = np.zeros((1, 3, 2, 2), np.float32)
    maps[0, 1] = 2
    assert describe(maps) == "float32 1x3x2x2, largest mean 2 of 1"
    assert describe(maps.transpose(0, 2, 3, 1), last=True) == "float32 1x2x2x3, largest mean 2 of 1"
    assert describe(np.array([[1, 7, 3]])) == "int64 1x3, largest score 7 of 1"
    for array in (np.zeros((1, 5, 6)), np.zeros((1, 1)), np.zeros((2, 3)), np.zeros((1, 0))):
        assert describe(array) == f"float64 {'x'.join(map(str, array.shape))}"


def test_mistakes_are_told_in_a_line(trained, folder, tmp_path, stdin, capsys, monkeypatch):
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
        assert main(["predict", str(trained), *words]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("lowerconv: error: ") and message in line
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["predict", str(trained), *raw]) == 1
    assert "stdin is closed" in capsys.readouterr().err
    monkeypatch.setattr(latency_picture, "available", lambda: False)
    assert main(["predict", str(trained), *frames, "--plot", "p.png"]) == 1
    assert "--plot: matplotlib is not installed: pip install" in capsys.readouterr().err
    for words in (["--size", "50"], ["--size", "0x5"], ["--fps", "nan"], ["--fps", "0"]):
        with pytest.raises(SystemExit):
            main(["predict", str(trained), "--stream", "-", *words])
        assert "expected" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--whole: is for checkpoints"):
        open_network(Path("net.onnx"), whole=True)


def start(trained, *words, **options) -> subprocess.Popen:
    """Start a stream of frames from stdin."""
    command = [sys.executable, "-m", "lowerconv", "predict", str(trained)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command += ["--stream", "-", "--size", "50x40", *words]
    return subprocess.Popen(command, env=clean_environment(), **pipes, **options)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_tells_what_has_been_done(trained, pixels):
    run = start(trained)
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
def test_a_stream_ends_where_nobody_reads_its_answers(trained, pixels):
    run = start(trained)
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
    """Of 300 frames the last 200 leave nothing but their latencies, 8 bytes each."""
    reads, writes = os.pipe()

    def write():
        with open(writes, "wb") as pipe:
            for i in range(300):
                pipe.write(pixels[i % 12].tobytes())

    writer = threading.Thread(target=write)
    writer.start()
    memory = []

    def show(text):
        if text.startswith(("100:", "200:", "299:")):
            memory.append(tracemalloc.get_traced_memory()[0])

    report = StreamReport()
    whole = Whole(small(), NORMALIZER)
    tracemalloc.start()
    try:
        stream.answer_all(whole, RawFrames(reads, (50, 40)), report, show)
    finally:
        tracemalloc.stop()
        os.close(reads)
        writer.join()
    assert report.answers.count == 300
    # Frames that are ready or in work, of 6 kB each, may be one more or less.
    assert max(memory[1:]) - memory[0] < 3 * pixels[0].nbytes


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


def test_the_picture(trained, folder, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="draws")
    picture = tmp_path / "latencies.svg"
    assert main(["predict", str(trained), "--stream", str(folder), "--plot", str(picture)]) == 0
    assert picture.read_text().startswith("<?xml")
    assert "12 frames of 1x28x28" in capsys.readouterr().err


def test_long_streams_are_drawn_by_their_slowest_frames():
    report = StreamReport()
    for i in range(10_000):
        report.answers.add(5.0 if i == 7_003 else 1.0)
    at, worst = latency_picture.slowest(report.answers)
    assert len(at) <= latency_picture.POINTS and worst.max() == 5
    assert abs(at[worst.argmax()] - 7_003) < 10
