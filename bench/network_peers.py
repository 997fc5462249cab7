"""Whole networks, trained and used: by lowerconv, PyTorch, ONNX Runtime, OpenVINO, as users would.

Every candidate has the same network (`bench.torch_networks` is PyTorch's), the same images, and
takes whole steps: forward, loss, backward, update by SGD with momentum.  ``lowerconv`` is a network
of this library; ``convert`` is PyTorch's through `lowerconv.torch.convert`, trained as PyTorch's.
"""

from __future__ import annotations

import inspect
import io
import time
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

import lowerconv as lc
from bench.peers import ASLEEP, is_missing, openvino
from lowerconv import nn
from lowerconv.bench.interleaved import Run
from lowerconv.nn.graph import Graph
from lowerconv.nn.models import MODELS

TRAINING, INFERENCE = "training", "inference"
LR, MOMENTUM = 0.0, 0.9  # the weights stay as they are: every step is the same work
OURS, BF16, CONVERT = "lowerconv", "lowerconv_bf16", "convert"
AUTOCAST, OPENVINO_BF16 = "torch_bf16", "openvino_bf16"  # of `bench.bf16`
#                 pass: its candidates, beside BF16, which has to be asked for
CANDIDATES = {
    TRAINING: (OURS, CONVERT, "torch_nchw", "torch_channels_last", "torch_compile"),
    INFERENCE: (
        *(OURS, CONVERT, "torch_nchw", "torch_channels_last", "torch_compile"),
        *("onnxruntime", "openvino"),
    ),
}
NEEDS = {
    OURS: (),
    "onnxruntime": ("torch", "onnx", "onnxruntime"),
    "openvino": ("torch", "onnx", "openvino"),
}  # all others need PyTorch alone
NETWORKS = (*MODELS, "mobilenet_v2")  # the last are PyTorch's alone


def options_of(model: str) -> dict[str, Any]:
    """Return how a model is built for a comparison: GoogLeNet without its two helpers."""
    return {"auxiliary": False} if model in ("googlenet", "inception_v3") else {}


def builder(model: str) -> Callable[..., Any]:
    """Return what builds a model: this library's, else PyTorch's where it has none."""
    if model in MODELS:
        return MODELS[model].build
    from bench import torch_networks

    build: Callable[..., Any] = getattr(torch_networks, model)
    return build


def image_shape(model: str) -> tuple[int, int, int]:
    """Return the shape of the images that a model was made for."""
    return inspect.signature(builder(model)).parameters["image_shape"].default


def available(op: str, model: str) -> list[str]:
    """Return the candidates that can run a model here."""
    return [
        name
        for name in CANDIDATES[op]
        if not any(map(is_missing, NEEDS.get(name, ("torch",))))
        and (name != OURS or model in MODELS)
    ]


def reference(names: Sequence[str]) -> str | None:
    """Return the one of some candidates that others are compared with, None without any of ours."""
    return next((name for name in (OURS, CONVERT) if name in names), None)


def flops(model: str, batch: int, op: str) -> int:
    """Return the operations of a step: products, and for training their two gradients."""
    shape = (batch, *image_shape(model))
    if model in MODELS:
        network = MODELS[model].build(**options_of(model))
    else:
        import torch

        network = lc.torch.to_native(torch_network(model), torch.zeros(2, *shape[1:]))
    graph = Graph(network, shape, np.float32, op == TRAINING)
    works = [(node.layer.flops(*(v.shape for v in node.operands)), node) for node in graph.nodes]
    forward = sum(work for work, _ in works)
    if op == INFERENCE:
        return forward
    first = next(work for work, node in works if work and node.operands[0] is graph.input)
    return 3 * forward - first  # nobody asks for the gradient of the images


def data(model: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, *image_shape(model)), np.float32)
    classes = inspect.signature(builder(model)).parameters["classes"].default
    return images, rng.integers(classes, size=batch)


def candidate(name: str, model: str, batch: int, op: str, threads: int) -> Run:
    """Return a call of a candidate: a training step, or the scores of a batch."""
    images, labels = data(model, batch)
    if name in (OURS, BF16):
        return _ours(model, images, labels, op, "float32" if name == OURS else "bf16")
    if name == "onnxruntime":
        return _OnnxRuntime(onnx_file(model, batch), images, threads)
    if name in ("openvino", OPENVINO_BF16):
        precision = "f32" if name == "openvino" else "bf16"
        return openvino(onnx_file(model, batch), {"x": images}, threads, precision)
    return _torch(name, model, images, labels, op, threads)


def _ours(model: str, images: np.ndarray, labels: np.ndarray, op: str, precision: str) -> Run:
    network = MODELS[model].build(**options_of(model))
    network.initialize(np.random.default_rng(1))
    network.precision = precision
    if op == INFERENCE:
        infer = network.compile(images.shape)
        return lambda: infer(images)
    optimizer = nn.SGD(network, lr=LR, momentum=MOMENTUM)
    step = nn.Step(training=True)

    def train() -> float:
        result = nn.softmax_cross_entropy(network.run(images, step), labels)
        network.backward(result.gradient)
        optimizer.step()
        return result.loss

    return train


def torch_network(model: str) -> Any:
    """Return PyTorch's form of a model."""
    from bench import torch_networks

    return getattr(torch_networks, model)(**options_of(model))


def _torch(
    name: str, model: str, images: np.ndarray, labels: np.ndarray, op: str, threads: int
) -> Run:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    last = name in ("torch_channels_last", "torch_compile", AUTOCAST)
    layout = torch.channels_last if last else torch.contiguous_format
    network = torch_network(model).to(memory_format=layout).train(op == TRAINING)
    x = torch.from_numpy(images).contiguous(memory_format=layout)
    target = torch.from_numpy(labels)
    called: Any = network
    if name == AUTOCAST:
        called = torch.autocast("cpu", torch.bfloat16)(network)
    if name == CONVERT:
        called = lc.torch.convert(network, x, strict=True)
    elif name == "torch_compile":
        called = torch.compile(network)
    if op == INFERENCE:
        # Converted modules are called as their users call them; they take either.
        without_gradients = torch.no_grad if name == CONVERT else torch.inference_mode

        @without_gradients()
        def infer() -> Any:
            return called(x)

        return infer
    # Fused: one pass over the memory, as ours makes; the default makes three.
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, fused=True)

    def train() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(called(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return train


@lru_cache(maxsize=1)  # files are large: the one that the next candidate takes, too
def onnx_file(model: str, batch: int) -> bytes:
    """Return PyTorch's network as an ONNX file with the input x."""
    import torch

    network, file = torch_network(model).eval(), io.BytesIO()
    x = torch.zeros(batch, *image_shape(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, x, file, dynamo=False, input_names=["x"])
    return file.getvalue()


class _OnnxRuntime:
    """A session with an ONNX file; see `bench.peers` on how its threads come and go."""

    def __init__(self, file: bytes, images: np.ndarray, threads: int) -> None:
        self.file, self.images, self.threads = file, images, threads
        self.session: Any = None

    def __call__(self) -> Any:
        if self.session is None:
            import onnxruntime  # type: ignore  # comes without types

            time.sleep(ASLEEP)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(
                self.file, options, providers=["CPUExecutionProvider"]
            )
        return self.session.run(None, {"x": self.images})[0]

    def rest(self) -> None:
        """End the threads, which would spin while others are timed."""
        self.session = None
