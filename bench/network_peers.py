"""Whole networks, trained and used: by lowerconv, PyTorch and ONNX Runtime, as their users would.

Every candidate has the same network (`bench.torch_networks` is PyTorch's), the same images, and
takes whole steps: forward, loss, backward, update by SGD with momentum.
"""

from __future__ import annotations

import inspect
import io
import time
import warnings
from typing import Any

import numpy as np

from bench.peers import ASLEEP, missing
from lowerconv import nn
from lowerconv.bench.interleaved import Run
from lowerconv.nn.graph import Graph
from lowerconv.nn.models import MODELS

TRAINING, INFERENCE = "training", "inference"
LR, MOMENTUM = 0.0, 0.9  # the weights stay as they are: every step is the same work
OURS = "lowerconv"
#                 pass: its candidates; compiled ones only when asked for: they need a C++ compiler
CANDIDATES = {
    TRAINING: (OURS, "torch_nchw", "torch_channels_last", "torch_compile"),
    INFERENCE: (OURS, "torch_nchw", "torch_channels_last", "torch_compile", "onnxruntime"),
}
NEEDS = {"torch_compile": "torch_nchw"}


def options_of(model: str) -> dict[str, Any]:
    """Return how a model is built for a comparison: GoogLeNet without its two helpers."""
    return {"auxiliary": False} if model in ("googlenet", "inception_v3") else {}


def image_shape(model: str) -> tuple[int, int, int]:
    """Return the shape of the images that a model was made for."""
    return inspect.signature(MODELS[model].build).parameters["image_shape"].default


def available(op: str) -> list[str]:
    """Return the candidates that can run here."""
    absent = missing()
    return [name for name in CANDIDATES[op] if NEEDS.get(name, name) not in absent]


def flops(model: str, batch: int, op: str) -> int:
    """Return the operations of a step: products, and for training their two gradients."""
    network = MODELS[model].build(**options_of(model))
    graph = Graph(network, (batch, *image_shape(model)), np.float32, op == TRAINING)
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
    classes = inspect.signature(MODELS[model].build).parameters["classes"].default
    return images, rng.integers(classes, size=batch)


def candidate(name: str, model: str, batch: int, op: str, threads: int) -> Run:
    """Return a call of a candidate: a training step, or the scores of a batch."""
    images, labels = data(model, batch)
    if name == OURS:
        return _ours(model, images, labels, op)
    if name == "onnxruntime":
        return _OnnxRuntime(model, images, threads)
    return _torch(name, model, images, labels, op, threads)


def _ours(model: str, images: np.ndarray, labels: np.ndarray, op: str) -> Run:
    network = MODELS[model].build(**options_of(model))
    network.initialize(np.random.default_rng(1))
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
    layout = torch.contiguous_format if name == "torch_nchw" else torch.channels_last
    network = torch_network(model).to(memory_format=layout)
    x = torch.from_numpy(images).contiguous(memory_format=layout)
    target = torch.from_numpy(labels)
    called = torch.compile(network) if name == "torch_compile" else network
    if op == INFERENCE:
        network.eval()

        @torch.inference_mode()
        def infer() -> Any:
            return called(x)

        return infer
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM)

    def train() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(called(x), target)
        loss.backward()
        optimizer.step()
        return loss

    return train


class _OnnxRuntime:
    """PyTorch's network as an ONNX model; see `bench.peers` on how its threads come and go."""

    def __init__(self, model: str, images: np.ndarray, threads: int) -> None:
        import torch

        network, file = torch_network(model).eval(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network, torch.from_numpy(images), file, dynamo=False, input_names=["x"]
            )
        self.model, self.images, self.threads = file.getvalue(), images, threads
        self.session: Any = None

    def __call__(self) -> Any:
        if self.session is None:
            import onnxruntime  # type: ignore  # comes without types

            time.sleep(ASLEEP)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
            options.log_severity_level = 3
            self.session = onnxruntime.InferenceSession(
                self.model, options, providers=["CPUExecutionProvider"]
            )
        return self.session.run(None, {"x": self.images})[0]

    def rest(self) -> None:
        """End the threads, which would spin while others are timed."""
        self.session = None
