"""Inputs of many sizes: what a network keeps for them is bounded, and shared."""

import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import helper

import lowerconv.onnx
from lowerconv.nn.program import PROGRAMS
from lowerconv.onnx.network import OnnxNetwork

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


def test_no_program_keeps_images():
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    net = lowerconv.onnx.load(model_of(nodes, {"x": [1, 3, "h", 8]}, ["y"], {}))
    for h in range(8, 12):
        for _ in range(4):
            x = numbers(rng, 1, 3, h, 8)
            image = weakref.ref(x)
            net(x)
            net.run(x)
            del x
            assert image() is None


def held(net) -> list[np.ndarray]:
    """Return the filters that all plans of a network keep, each array once."""
    frames = [f for p in net._use.inference.programs.values() for _, f in p.steps]
    plans = [f.prepared["forward"] for f in frames if "forward" in f.prepared]
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


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that the shape of the input is added to whenever a network is recorded."""
    shapes, forward = [], OnnxNetwork.forward

    def noted(self: OnnxNetwork, *values: Any, **named: Any) -> Any:
        shapes.append(values[0].extents)
        return forward(self, *values, **named)

    monkeypatch.setattr(OnnxNetwork, "forward", noted)
    return shapes


def test_a_network_of_images_is_recorded_for_two_sizes(monkeypatch):
    rng = np.random.default_rng(0)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"]),
        node("Mul", ["n", "two"], ["m"]),
        node("HardSigmoid", ["m"], ["h"]),
        node("Mul", ["m", "h"], ["a"]),
        node("Conv", ["a", "v"], ["d"], group=8, pads=[2, 2, 2, 2]),
        node("GlobalAveragePool", ["d"], ["g"]),
        node("Conv", ["g", "u"], ["i"]),
        node("Sigmoid", ["i"], ["j"]),
        node("Mul", ["d", "j"], ["k"]),
        node("Resize", ["k", "", "scales"], ["l"], mode="linear"),
        node("ConvTranspose", ["a", "t"], ["o"], strides=[2, 2]),
        node("Add", ["l", "o"], ["p"]),
        node("MaxPool", ["p"], ["q"], kernel_shape=[2, 2]),
        node("Concat", ["q", "q"], ["r"], axis=1),
        node("Relu", ["r"], ["y"]),
    ]
    constants = {
        **{"w": numbers(rng, 8, 3, 3, 3), "v": numbers(rng, 8, 1, 5, 5)},
        **{"u": numbers(rng, 8, 8, 1, 1), "t": numbers(rng, 8, 8, 2, 2)},
        **{"s": np.full(8, 2, np.float32), "two": np.full(1, 2, np.float32)},
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    model = model_of(nodes, {"x": ["n", 3, "h", "w"]}, ["y"], constants)
    net = lowerconv.onnx.load(model)
    sizes = [(1, 16, 16), (1, 24, 40), (1, 17, 31), (2, 8, 8), (1, 1, 1), (3, 2, 50), (1, 16, 16)]
    images = [numbers(rng, n, 3, h, w) for n, h, w in sizes]
    expected = [lowerconv.onnx.load(model)(x) for x in images]
    shapes = recorded(monkeypatch)
    for x, y in zip(images, expected, strict=True):
        assert np.array_equal(net(x), y)
    assert shapes == [images[0].shape, images[1].shape]


def test_weights_that_were_folded_are_made_again():
    """Programs of other sizes pack filters otherwise, when nobody has the folded ones any more."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "b", "s"], ["n"]),
        helper.make_node("Mul", ["n", "b4"], ["y"]),
    ]
    constants = {"w": numbers(rng, 24, 24, 3, 3)}
    constants |= {"s": rng.random(24).astype(np.float32) + 1, "b": numbers(rng, 24)}
    constants["b4"] = numbers(rng, 1, 24, 1, 1)
    model = model_of(nodes, {"x": [1, 24, "h", "w"]}, ["y"], constants)
    net = lowerconv.onnx.load(model)
    for n in (4, 40, 7, 100, 3, 28, 64):
        x = numbers(rng, 1, 24, n, n)
        net._use.inference.programs.clear()
        net._use.inference.arena.filters.clear()
        assert np.array_equal(net(x), lowerconv.onnx.load(model)(x))


@pytest.mark.parametrize(
    ("nodes", "rerecorded"),
    [
        # sums of values that have the same shape at some sizes only
        ([("GlobalAveragePool", ["x"], {}), ("Add", ["x", "v0"], {})], 1),
        # the shape itself
        ([("Shape", ["x"], {}), ("Reshape", ["x", "v0"], {})], 5),
        # padding that makes up for the extents
        ([("Conv", ["x", "w"], {"auto_pad": "SAME_UPPER", "strides": [3, 3]})], 5),
        ([("MaxPool", ["x"], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1})], 0),
        ([("Flatten", ["x"], {"axis": 2})], 5),
    ],
    ids=lambda v: v if isinstance(v, int) else v[-1][0],
)
def test_what_extents_decide_is_decided_anew(nodes, rerecorded, monkeypatch):
    rng = np.random.default_rng(0)
    made = [
        helper.make_node(kind, names, ["y" if i + 1 == len(nodes) else f"v{i}"], **attributes)
        for i, (kind, names, attributes) in enumerate(nodes)
    ]
    constants = {"w": numbers(rng, 4, 4, 3, 3)}
    model = model_of(made, {"x": [1, 4, "h", "w"]}, ["y"], constants)
    sizes = [(6, 6), (7, 9), (5, 4), (4, 4), (1, 1) if rerecorded == 1 else (3, 3), (8, 6), (9, 7)]
    images = [numbers(rng, 1, 4, h, w) for h, w in sizes]
    expected = [lowerconv.onnx.load(model)(x) for x in images]
    net, shapes = lowerconv.onnx.load(model), recorded(monkeypatch)
    for x, y in zip(images, expected, strict=True):
        assert np.array_equal(net(x), y)
    assert len(shapes) == 2 + rerecorded
