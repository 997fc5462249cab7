"""What takes frames: networks on whole frames, and ONNX files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerconv.cli import stream
from lowerconv.cli.frame_networks import SIZES, Whole, describe
from lowerconv.cli.main import main
from lowerconv.cli.stream_report import StreamReport
from lowerconv.data.frames import FolderFrames
from tests.cli.frames import LINE, NORMALIZER, lines_of, small


def normalised(picture) -> np.ndarray:
    return NORMALIZER(np.ascontiguousarray(picture.transpose(2, 0, 1))[None], np.zeros(1, int))


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


def test_networks_that_take_one_size_alone_say_so(lenet, folder, capsys):
    assert main(["predict", str(lenet), "--stream", str(folder), "--whole"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("lowerconv: error: the network does not take frames of 1x40x50: x: got")
    assert "no frame was answered" in told


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
