"""A network from an ONNX file is trained on three ranks, and resumes to the same bits."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import helper  # noqa: E402

import lowerconv.onnx  # noqa: E402
from lowerconv.train.checkpoint import LAST, load_checkpoint  # noqa: E402
from tests.onnx.networks import model_of  # noqa: E402

PROGRAM = Path(__file__).parents[1] / "programs" / "onnx_trainer.py"


@pytest.fixture
def model(tmp_path) -> Path:
    """Return a file of a small network for Fashion-MNIST."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        node("BatchNormalization", ["c", "one", "zero", "zero", "one"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "v", "b"], ["y"], transB=1),
    ]
    constants = {
        "w": rng.standard_normal((8, 1, 5, 5)).astype(np.float32) / 5,
        "v": rng.standard_normal((10, 288)).astype(np.float32) / 17,
        **{"one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)},
        "b": np.zeros(10, np.float32),
    }
    path = tmp_path / "model.onnx"
    onnx.save_model(model_of(nodes, {"x": ["n", 1, 28, 28]}, ["y"], constants), path)
    return path


def test_it_trains_on_three_ranks_and_resumes(mpiexec, model, tmp_path, tiny_fashion):
    data = f"fashion-mnist:{tiny_fashion}"
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, epochs, more in ((whole, 2, ()), (parts, 1, ()), (parts, 2, ("resume",))):
        run = mpiexec(3, PROGRAM, model, data, out, epochs, *more)
        assert run.returncode == 0, run.stderr
        assert f"the same on 3 ranks after {epochs} epochs" in run.stdout
    first, second = (load_checkpoint(out / LAST) for out in (whole, parts))
    assert first.tensors.keys() == second.tensors.keys()
    for name, array in first.tensors.items():
        assert np.array_equal(second.tensors[name], array), name
    x = np.random.default_rng(1).standard_normal((2, 1, 28, 28)).astype(np.float32)
    before, *after = (
        lowerconv.onnx.load(path)(x) for path in (model, f"{whole}.onnx", f"{parts}.onnx")
    )
    assert np.array_equal(*after) and not np.allclose(after[0], before)
