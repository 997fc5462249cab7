"""The same convolutions by PyTorch and ONNX Runtime, each as its users have them."""

from __future__ import annotations

import time
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from lowerconv.bench.cases import Layer
from lowerconv.bench.interleaved import Run
from lowerconv.bench.passes import plan_for

HINT = "pip install lowerconv[bench]"
NEEDS = {
    "torch_nchw": ("torch",),
    "torch_channels_last": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
}
ASLEEP = 0.010  # seconds until idle threads of OpenMP sleep
OPSET, IR = 13, 8  # of the ONNX model: old enough for every version that still installs


@lru_cache
def is_missing(module: str) -> bool:
    """Return whether a module cannot be imported here."""
    try:
        import_module(module)
    except (ImportError, OSError):  # OSError: a library of the package cannot be loaded
        return True
    return False


def missing() -> dict[str, str]:
    """Return the peers that cannot run here, and why."""
    return {
        name: f"{', '.join(absent)} not installed, skipped ({HINT})"
        for name, modules in NEEDS.items()
        if (absent := [module for module in modules if is_missing(module)])
    }


def available(op: str) -> list[str]:
    """Return the peers that can run a pass here."""
    absent = missing()
    return [
        name for name in NEEDS if name not in absent and (op == "forward" or name != "onnxruntime")
    ]


def versions(*more: str) -> str:
    """Return names and versions of the packages that are there, of more than the peers if named."""
    modules = [name for name in ("torch", "onnxruntime", *more) if not is_missing(name)]
    found = ((name, import_module(name).__version__) for name in modules)
    return ", ".join(f"{name} {version.partition('-')[0]}" for name, version in found)


def peer(
    name: str,
    layer: Layer,
    batch: int,
    op: str,
    threads: int,
    first: np.ndarray,
    second: np.ndarray,
) -> Run:
    """Return a call of a peer; what it returns becomes an array with `np.asarray`.

    Parameters
    ----------
    name : str
        One of `available(op)`.
    layer, batch, op
        The pass.
    threads : int
        That the peer runs on.
    first, second : ndarray
        Operands, as of :func:`lowerconv.bench.passes.operands`.
    """
    if name == "onnxruntime":
        return _OnnxRuntime(layer, batch, threads, first, second)
    return _torch(layer, batch, op, threads, first, second, name == "torch_channels_last")


def _torch(
    layer: Layer,
    batch: int,
    op: str,
    threads: int,
    first: np.ndarray,
    second: np.ndarray,
    channels_last: bool,
) -> Run:
    """Return a call of PyTorch, its operands already in the memory format it shall work in."""
    import torch

    torch.set_num_threads(threads)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array).contiguous(memory_format=layout)

    stride, padding, dilation, groups = layer.arguments
    a, b = tensor(first), tensor(second)
    if op == "forward":

        @torch.inference_mode()
        def forward() -> Any:
            return torch.nn.functional.conv2d(a, b, None, stride, padding, dilation, groups)

        return forward

    # The gradient that is not asked for still has an argument, of which only the shape counts.
    if op == "input_grad":
        x, w = tensor(np.empty(layer.x_shape(batch), np.float32)), b
    else:
        x, w = b, tensor(np.empty(layer.w_shape, np.float32))
    which = 0 if op == "input_grad" else 1
    mask = [which == 0, which == 1, False]
    backward = torch.ops.aten.convolution_backward

    def gradient() -> Any:
        results = backward(a, x, w, None, stride, padding, dilation, False, (0, 0), groups, mask)
        return results[which]

    return gradient


def openvino(
    content: bytes, feeds: dict[str, np.ndarray], threads: int, precision: str = "f32"
) -> Run:
    """Return a call of an ONNX model by OpenVINO, which knows all shapes.

    Parameters
    ----------
    content : bytes
        Of an ONNX file.
    feeds : dict of str to ndarray
    threads : int
        One request at a time has all of them.
    precision : {"f32", "bf16"}
    """
    from openvino import Core

    core = Core()
    model = core.read_model(content)
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer(feeds, share_inputs=True)


class _OnnxRuntime:
    """A model that is one convolution, its weights known when it is loaded.

    Images and result stay where they are.  Idle threads spin for a while, which is ONNX Runtime's
    default (``session.intra_op.allow_spinning``) and stays so; `rest` ends them with their session,
    and the next call opens another.  It waits for threads of OpenMP to fall asleep first: one time
    in three a thread that was started beside them stayed on the core of the main thread, and
    everything took two to seven times as long.
    """

    def __init__(
        self, layer: Layer, batch: int, threads: int, x: np.ndarray, w: np.ndarray
    ) -> None:
        from onnx import TensorProto, helper, numpy_helper

        y_shape = plan_for(layer, batch, "forward", "auto").result_shape
        top, left = layer.padding
        node = helper.make_node(
            "Conv",
            ["x", "w"],
            ["y"],
            strides=layer.stride,
            pads=(top, left, top, left),
            dilations=layer.dilation,
            group=layer.groups,
        )
        graph = helper.make_graph(
            [node],
            layer.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, y_shape)],
            [numpy_helper.from_array(w, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR
        self.model, self.threads = model.SerializeToString(), threads
        self.x, self.y = x, np.empty(y_shape, np.float32)
        self.session: Any = None

    def _open(self) -> None:
        import onnxruntime  # type: ignore  # comes without types

        time.sleep(ASLEEP)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        self.session = onnxruntime.InferenceSession(
            self.model, options, providers=["CPUExecutionProvider"]
        )
        self.binding = self.session.io_binding()
        for bind, name, array in (
            (self.binding.bind_input, "x", self.x),
            (self.binding.bind_output, "y", self.y),
        ):
            bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def __call__(self) -> np.ndarray:
        if self.session is None:
            self._open()
        self.session.run_with_iobinding(self.binding)
        return self.y

    def rest(self) -> None:
        self.session = self.binding = None
