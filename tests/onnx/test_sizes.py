"""Inputs of many sizes: what a network keeps for them is bounded, and shared."""

import numpy as np
import pytest

pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import helper

import lowerconv.onnx
from lowerconv.nn.program import PROGRAMS

from .networks import model_of


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def test_many_sizes_keep_memory_bounded():
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("BatchNormalization", ["r", "s", "s", "s", "s"], ["n"]),
        node("MaxPool", ["n"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    constants = {"w": numbers(rng, 4, 3, 3, 3), "s": np.ones(4, np.float32)}
    net = lowerconv.onnx.load(model_of(nodes, {"x": [1, 3, "h", "w"]}, ["y"], constants))
    net(numbers(rng, 1, 3, 60, 60))
    arena = net._use.inference.arena
    largest = arena.memory.nbytes
    for _ in range(200):
        h, w = rng.integers(4, 61, 2)
        assert net(numbers(rng, 1, 3, h, w)).shape == (1, 4, h // 2, w // 2)
        assert len(net._use.inference.programs) <= PROGRAMS
    assert arena.memory.nbytes == largest


def held(net) -> list[np.ndarray]:
    """Return the filters that all plans of a network keep, each array once."""
    frames = [f for p in net._use.inference.programs.values() for _, f in p.steps]
    plans = [f.kept["forward"] for f in frames if "forward" in f.kept]
    return list({id(array): array for plan in plans for array in plan._prepacked}.values())


def test_all_sizes_have_the_same_filters():
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"]),  # becomes a part of w
        node("Conv", ["n", "v"], ["d"], group=24, pads=[1, 1, 1, 1]),
        node("Conv", ["d", "w"], ["e"], pads=[1, 1, 1, 1]),
        node("Conv", ["e", "u"], ["y"]),
    ]
    constants = {
        **{"w": numbers(rng, 24, 24, 3, 3), "v": numbers(rng, 24, 1, 3, 3)},
        **{"u": numbers(rng, 24, 24, 1, 1), "s": np.full(24, 2, np.float32)},
    }
    model = model_of(nodes, {"x": [1, 24, "h", 20]}, ["y"], constants)
    net = lowerconv.onnx.load(model)
    heights = range(8, 8 + 4 * PROGRAMS, 4)
    for h in heights:
        x = numbers(rng, 1, 24, h, 20)
        assert np.array_equal(net(x), lowerconv.onnx.load(model)(x))
    assert len(net._use.inference.programs) == len(heights)
    # Of each layer what at most a few algorithms keep.
    assert len(held(net)) <= 12 < 4 * len(heights)
    assert len(net._use.inference.arena.filters) == len(held(net))
