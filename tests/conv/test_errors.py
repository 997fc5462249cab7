"""Wrong arguments: the type of the error, what its message says, and that nothing was written.

Every message must name the argument, say what it was and say what was expected.
"""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytest

import lowerconv as lc

from .cases import ALGORITHMS, ones
from .reference import Array

# The right call that each test breaks in one place: 6 outputs from 4 inputs, in 2 groups.
X, W, Y = (2, 4, 6, 5), (6, 2, 3, 2), (2, 6, 4, 4)
UNTOUCHED = 7.0

Arguments = dict[str, Any]


def untouched(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.full(shape, UNTOUCHED, dtype)


def forward(**changed: Any) -> Array:
    given: Arguments = {"x": ones(X), "w": ones(W), "groups": 2, "out": untouched(Y)}
    return lc.conv2d(**given | changed)


def input_grad(**changed: Any) -> Array:
    given: Arguments = {"dy": ones(Y), "w": ones(W), "x_shape": X, "groups": 2, "out": untouched(X)}
    return lc.conv2d_input_grad(**given | changed)


def weight_grad(**changed: Any) -> Array:
    given: Arguments = {"dy": ones(Y), "x": ones(X), "w_shape": W, "groups": 2, "out": untouched(W)}
    return lc.conv2d_weight_grad(**given | changed)


def plan(**changed: Any) -> Any:
    given: Arguments = {"x_shape": X, "w_shape": W, "groups": 2}
    return lc.plan_conv2d(**given | changed)


ENTRIES: dict[str, Callable[..., Any]] = {
    "conv2d": forward,
    "conv2d_input_grad": input_grad,
    "conv2d_weight_grad": weight_grad,
    "plan_conv2d": plan,
}
RESULTS: dict[Callable[..., Any], tuple[int, ...]] = {forward: Y, input_grad: X, weight_grad: W}


# For values wrong in type and content alike.
EITHER = (TypeError, ValueError)


class Wrong(NamedTuple):
    """One mistake and the answer to it."""

    id: str
    changed: Arguments
    error: type[Exception] | tuple[type[Exception], ...]
    named: str  # a regular expression for the name of the argument
    said: tuple[str, ...] = ()  # what the message says that it was, and what it should be


def assert_refused(call: Callable[..., Any], wrong: Wrong) -> None:
    # What was right before must not be mistaken for what is wrong now: 1 == 1.0 == True.
    call()
    changed = dict(wrong.changed)
    if call is not plan:
        changed.setdefault("out", untouched(RESULTS[call]))
    out: Any = changed.get("out")
    before = deepcopy(out)
    with pytest.raises(wrong.error) as caught:
        call(**changed)
    message = str(caught.value)
    assert re.search(rf"\b({wrong.named})\b", message), message
    for said in wrong.said:
        assert said in message
    assert np.array_equal(out, before)


def by_entry(entries: dict[str, Callable[..., Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", entries.values(), ids=entries.keys())


def by_mistake(mistakes: list[Wrong]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("wrong", mistakes, ids=[wrong.id for wrong in mistakes])


def steps(name: str) -> list[Wrong]:
    """What may be wrong with a stride or a dilation."""

    def wrong(id: str, value: Any, error: type[Exception], *said: str) -> Wrong:
        return Wrong(f"{name}-{id}", {name: value}, error, name, said)

    return [
        wrong("zero", 0, ValueError, "0"),
        wrong("negative", -1, ValueError, "-1"),
        wrong("zero-in-pair", (1, 0), ValueError, "0"),
        wrong("triple", (1, 2, 3), ValueError, "(1, 2, 3)"),
        wrong("single", (1,), ValueError, "(1,)"),
        wrong("no-numbers", (), ValueError, "()"),
        wrong("fraction", 1.5, TypeError, "1.5"),
        wrong("whole-float", 1.0, TypeError, "1.0"),
        wrong("numpy-float", np.float64(1), TypeError, "1.0"),
        wrong("array-of-no-dimensions", np.array(1.5), TypeError, "1.5"),
        wrong("fraction-in-pair", (1, 1.5), TypeError, "1.5"),
        wrong("bool", True, TypeError, "True"),
        wrong("numpy-bool", np.True_, TypeError, "True"),
        wrong("bool-in-pair", (True, 1), TypeError, "True"),
        wrong("text", "2", TypeError, "'2'"),
        wrong("none", None, TypeError, "None"),
    ]


GEOMETRY = [
    *steps("stride"),
    *steps("dilation"),
    Wrong("padding-negative", {"padding": -1}, ValueError, "padding", ("-1",)),
    Wrong("padding-negative-in-pair", {"padding": (0, -2)}, ValueError, "padding", ("-2",)),
    Wrong("padding-negative-side", {"padding": ((0, 1), (-3, 0))}, ValueError, "padding", ("-3",)),
    Wrong("padding-triple", {"padding": (1, 2, 3)}, ValueError, "padding", ("(1, 2, 3)",)),
    Wrong("padding-one-pair", {"padding": ((1, 2),)}, ValueError, "padding", ("((1, 2),)",)),
    Wrong("padding-three-sides", {"padding": ((1, 2, 3), (0, 0))}, ValueError, "padding"),
    Wrong("padding-one-side", {"padding": ((1,), (0,))}, ValueError, "padding"),
    Wrong("padding-fraction", {"padding": 0.5}, TypeError, "padding", ("0.5",)),
    Wrong("padding-fraction-side", {"padding": ((0, 0.5), (0, 0))}, TypeError, "padding", ("0.5",)),
    Wrong("padding-bool", {"padding": False}, TypeError, "padding", ("False",)),
    Wrong("padding-none", {"padding": None}, TypeError, "padding", ("None",)),
    Wrong("padding-word", {"padding": "full"}, ValueError, "padding", ("full", "same", "valid")),
    Wrong("same-stride-2", {"padding": "same", "stride": 2}, ValueError, "padding", ("same", "2")),
    Wrong("same-stride-1x2", {"padding": "same", "stride": (1, 2)}, ValueError, "padding", ("2",)),
    Wrong("groups-zero", {"groups": 0}, ValueError, "groups", ("0",)),
    Wrong("groups-negative", {"groups": -2}, ValueError, "groups", ("-2",)),
    Wrong("padding-whole-float", {"padding": 0.0}, TypeError, "padding", ("0.0",)),
    Wrong("groups-whole-float", {"groups": 2.0}, TypeError, "groups", ("2.0",)),
    Wrong("groups-bool", {"groups": True}, TypeError, "groups", ("True",)),
    Wrong("groups-pair", {"groups": (2, 2)}, TypeError, "groups", ("(2, 2)",)),
    Wrong("groups-none", {"groups": None}, TypeError, "groups", ("None",)),
    Wrong("groups-not-dividing-inputs", {"groups": 3}, ValueError, "groups", ("3", "4")),
    Wrong("dilated-beyond-image", {"dilation": (3, 1)}, ValueError, "w|w_shape", ("7", "6")),
    Wrong("dilated-far-beyond", {"dilation": 2**62}, ValueError, "w|w_shape"),
    Wrong("algorithm-unknown", {"algorithm": "fast"}, ValueError, "algorithm", ("fast", "auto")),
    Wrong("algorithm-list", {"algorithm": ["direct"]}, EITHER, "algorithm", ("direct",)),
]


@by_mistake(GEOMETRY)
@by_entry(ENTRIES)
def test_geometry(call: Callable[..., Any], wrong: Wrong) -> None:
    assert_refused(call, wrong)


@by_entry(ENTRIES)
def test_unknown_algorithm_lists_the_known(call: Callable[..., Any]) -> None:
    assert_refused(call, Wrong("", {"algorithm": "fast"}, ValueError, "algorithm", ALGORITHMS))


def arrays(name: str, shape: tuple[int, ...]) -> list[Wrong]:
    """What may be wrong with any operand: all but its shape."""

    def wrong(id: str, value: Any, *said: str) -> Wrong:
        return Wrong(f"{name}-{id}", {name: value}, TypeError, name, said)

    return [
        wrong("list", ones(shape).tolist(), "list"),
        wrong("none", None, "None"),
        wrong("number", 1.0, "float"),
        wrong("memoryview", memoryview(ones(shape).tobytes()), "memoryview"),
        wrong("integers", ones(shape, np.int64), "int64", "float32"),
        wrong("bools", ones(shape, bool), "bool", "float32"),
        wrong("byte-swapped-half", ones(shape, np.dtype(np.float16).newbyteorder()), "float32"),
        wrong("long", ones(shape, np.longdouble), np.dtype(np.longdouble).name, "float32"),
        wrong("complex", ones(shape, np.complex64), "complex64", "float32"),
        wrong("objects", ones(shape, object), "object", "float32"),
        wrong("byte-swapped", ones(shape, np.dtype(np.float32).newbyteorder()), "float32"),
    ]


X_OR_W = "x|w|x_shape|w_shape"

FORWARD = [
    *arrays("x", X),
    *arrays("w", W),
    Wrong("w-of-other-dtype", {"w": ones(W, np.float64)}, TypeError, "w", ("float64", "float32")),
    Wrong("x-of-other-dtype", {"x": ones(X, np.float64)}, TypeError, "x|w", ("float64", "float32")),
    Wrong("x-half", {"x": ones(X, np.float16)}, TypeError, "x|w", ("float16", "float32")),
    Wrong("w-half", {"w": ones(W, np.float16)}, TypeError, "w", ("float16", "float32")),
    Wrong("x-2d", {"x": ones((6, 5))}, ValueError, "x", ("(6, 5)",)),
    Wrong("x-5d", {"x": ones((1, *X))}, ValueError, "x", ("(1, 2, 4, 6, 5)",)),
    Wrong("x-0d", {"x": ones(())}, ValueError, "x", ("()",)),
    Wrong("w-3d", {"w": ones((6, 2, 3))}, ValueError, "w", ("(6, 2, 3)",)),
    Wrong("w-5d", {"w": ones((1, *W))}, ValueError, "w", ("(1, 6, 2, 3, 2)",)),
    Wrong("channels", {"w": ones((6, 4, 3, 2))}, ValueError, X_OR_W, ("4",)),
    Wrong("channels-without-groups", {"groups": 1}, ValueError, X_OR_W, ("4", "2")),
    Wrong(
        "groups-not-dividing-outputs",
        {"groups": 4, "w": ones((6, 1, 3, 2))},
        ValueError,
        "groups",
        ("4", "6"),
    ),
    Wrong("kernel-too-tall", {"w": ones((6, 2, 7, 2))}, ValueError, "w", ("7", "6")),
    Wrong("kernel-too-wide", {"w": ones((6, 2, 3, 6))}, ValueError, "w", ("6", "5")),
    Wrong(
        "kernel-too-tall-for-padding",
        {"w": ones((6, 2, 9, 2)), "padding": ((1, 1), (0, 0))},
        ValueError,
        "w",
        ("9", "8"),
    ),
    Wrong(
        "no-input-channels", {"x": ones((2, 0, 6, 5)), "w": ones((6, 0, 3, 2))}, ValueError, "x|w"
    ),
    Wrong("no-output-channels", {"w": ones((0, 2, 3, 2))}, ValueError, "w", ("(0, 2, 3, 2)",)),
    Wrong("no-kernel-rows", {"w": ones((6, 2, 0, 2))}, ValueError, "w", ("(6, 2, 0, 2)",)),
    Wrong("no-kernel-columns", {"w": ones((6, 2, 3, 0))}, ValueError, "w", ("(6, 2, 3, 0)",)),
    Wrong("no-rows", {"x": ones((2, 4, 0, 5))}, ValueError, X_OR_W),
    Wrong("activation-list", {"activation": ["relu"]}, EITHER, "activation", ("relu",)),
    Wrong("activation-unknown", {"activation": "tanh"}, ValueError, "activation", ("tanh", "relu")),
    Wrong("bias-too-long", {"bias": ones((7,))}, ValueError, "bias", ("(7,)", "(6,)")),
    Wrong("bias-one-number", {"bias": ones((1,))}, ValueError, "bias", ("(1,)", "(6,)")),
    Wrong("bias-2d", {"bias": ones((6, 1))}, ValueError, "bias", ("(6, 1)", "(6,)")),
    Wrong("bias-0d", {"bias": ones(())}, ValueError, "bias", ("()", "(6,)")),
    Wrong("bias-of-other-dtype", {"bias": ones((6,), np.float64)}, TypeError, "bias", ("float64",)),
    Wrong("bias-list", {"bias": [0.0] * 6}, TypeError, "bias", ("list",)),
    Wrong("bias-number", {"bias": 0.0}, TypeError, "bias", ("float",)),
    Wrong("out-transposed", {"out": untouched((2, 4, 4, 6))}, ValueError, "out", ("(2, 4, 4, 6)",)),
    Wrong("out-without-batch", {"out": untouched(Y[1:])}, ValueError, "out", (str(Y),)),
    Wrong("3d-x-with-4d-out", {"x": ones(X[1:])}, ValueError, "out", (str(Y), str(Y[1:]))),
]


@by_mistake(FORWARD)
def test_forward(wrong: Wrong) -> None:
    assert_refused(forward, wrong)


INPUT_GRAD = [
    *arrays("dy", Y),
    *arrays("w", W),
    Wrong("w-of-other-dtype", {"w": ones(W, np.float64)}, TypeError, "w|dy", ("float64",)),
    Wrong("dy-too-wide", {"dy": ones((2, 6, 4, 5))}, ValueError, "dy", ("(2, 6, 4, 5)", str(Y))),
    Wrong("dy-other-batch", {"dy": ones((3, 6, 4, 4))}, ValueError, "dy", ("(3, 6, 4, 4)", str(Y))),
    Wrong("dy-other-channels", {"dy": ones((2, 4, 4, 4))}, ValueError, "dy", (str(Y),)),
    Wrong("dy-3d", {"dy": ones(Y[1:])}, ValueError, "dy", (str(Y[1:]), str(Y))),
    Wrong("dy-4d-of-3d", {"x_shape": X[1:]}, ValueError, "dy", (str(Y), str(Y[1:]))),
    Wrong("dy-2d", {"dy": ones((4, 4))}, ValueError, "dy", ("(4, 4)",)),
    Wrong("w-3d", {"w": ones((6, 2, 3))}, ValueError, "w", ("(6, 2, 3)",)),
    Wrong("channels", {"w": ones((6, 4, 3, 2))}, ValueError, X_OR_W, ("4",)),
    Wrong("kernel-too-tall", {"w": ones((6, 2, 7, 2))}, ValueError, "w", ("7", "6")),
    Wrong("no-output-channels", {"w": ones((0, 2, 3, 2))}, ValueError, "w"),
    Wrong("out-transposed", {"out": untouched((2, 4, 5, 6))}, ValueError, "out", (str(X),)),
]


@by_mistake(INPUT_GRAD)
def test_input_grad(wrong: Wrong) -> None:
    assert_refused(input_grad, wrong)


WEIGHT_GRAD = [
    *arrays("dy", Y),
    *arrays("x", X),
    Wrong("x-of-other-dtype", {"x": ones(X, np.float64)}, TypeError, "x|dy", ("float64",)),
    Wrong("dy-too-tall", {"dy": ones((2, 6, 5, 4))}, ValueError, "dy", ("(2, 6, 5, 4)", str(Y))),
    Wrong("dy-other-batch", {"dy": ones((1, 6, 4, 4))}, ValueError, "dy", ("(1, 6, 4, 4)", str(Y))),
    Wrong("dy-3d", {"dy": ones(Y[1:])}, ValueError, "dy", (str(Y[1:]), str(Y))),
    Wrong("dy-4d-of-3d", {"x": ones(X[1:])}, ValueError, "dy", (str(Y), str(Y[1:]))),
    Wrong("x-2d", {"x": ones((6, 5))}, ValueError, "x", ("(6, 5)",)),
    Wrong("channels", {"w_shape": (6, 4, 3, 2)}, ValueError, X_OR_W, ("4",)),
    Wrong("kernel-too-tall", {"w_shape": (6, 2, 7, 2)}, ValueError, "w_shape", ("7", "6")),
    Wrong("out-transposed", {"out": untouched((6, 2, 2, 3))}, ValueError, "out", (str(W),)),
]


@by_mistake(WEIGHT_GRAD)
def test_weight_grad(wrong: Wrong) -> None:
    assert_refused(weight_grad, wrong)


def shapes(name: str, shape: tuple[int, ...]) -> list[Wrong]:
    """What may be wrong with a shape that is given as such."""
    a, b, c, d = shape

    def wrong(id: str, value: Any, error: type[Exception], *said: str) -> Wrong:
        return Wrong(f"{name}-{id}", {name: value}, error, name, said)

    return [
        wrong("2-numbers", (c, d), ValueError, str((c, d))),
        wrong("5-numbers", (1, *shape), ValueError, str((1, *shape))),
        wrong("no-numbers", (), ValueError, "()"),
        wrong("negative", (a, b, -c, d), ValueError, f"-{c}"),
        wrong("negative-batch", (-a, b, c, d), ValueError, f"-{a}"),
        wrong("no-channels", (a, 0, c, d), ValueError, "0"),
        wrong("whole-float", (a, b, c, float(d)), TypeError, f"{float(d)}"),
        wrong("nested", (a, b, [c], d), TypeError, f"[{c}]"),
        wrong("text", "abcd", TypeError, "abcd"),
        wrong("one-number", c, TypeError, str(c)),
        wrong("none", None, TypeError, "None"),
    ]


@by_mistake(shapes("x_shape", X))
@pytest.mark.parametrize("call", [input_grad, plan])
def test_x_shape(call: Callable[..., Any], wrong: Wrong) -> None:
    assert_refused(call, wrong)


@by_mistake(
    [
        *shapes("w_shape", W),
        Wrong("w_shape-3d", {"w_shape": W[1:]}, ValueError, "w_shape", (str(W[1:]),)),
        Wrong("w_shape-no-outputs", {"w_shape": (0, 2, 3, 2)}, ValueError, "w_shape"),
        Wrong("w_shape-no-taps", {"w_shape": (6, 2, 3, 0)}, ValueError, "w_shape"),
    ]
)
@pytest.mark.parametrize("call", [weight_grad, plan])
def test_w_shape(call: Callable[..., Any], wrong: Wrong) -> None:
    assert_refused(call, wrong)


PLAN = [
    Wrong("op", {"op": "backward"}, ValueError, "op", ("backward", "input_grad", "weight_grad")),
    Wrong("dtype-swapped-half", {"dtype": np.dtype("f2").newbyteorder()}, TypeError, "dtype"),
    Wrong("dtype-integer", {"dtype": np.int32}, TypeError, "dtype", ("int32", "float32")),
    Wrong("dtype-swapped", {"dtype": np.dtype("f4").newbyteorder()}, TypeError, "dtype"),
    Wrong("dtype-unknown", {"dtype": "single-ish"}, TypeError, "dtype", ("single-ish",)),
    Wrong("activation", {"activation": "tanh"}, ValueError, "activation", ("tanh", "relu")),
]


@by_mistake(PLAN)
def test_plan(wrong: Wrong) -> None:
    assert_refused(plan, wrong)


def outs(shape: tuple[int, ...]) -> list[Wrong]:
    """What may be wrong with any ``out``."""
    longer = (shape[0] + 1, *shape[1:])
    fixed = untouched(shape)
    fixed.setflags(write=False)
    swapped = np.dtype(np.float32).newbyteorder()
    double = untouched(shape, np.float64)
    return [
        Wrong("longer", {"out": untouched(longer)}, ValueError, "out", (str(longer), str(shape))),
        Wrong("1d", {"out": untouched((int(np.prod(shape)),))}, ValueError, "out", (str(shape),)),
        Wrong("double", {"out": double}, TypeError, "out", ("float64", "float32")),
        Wrong("integers", {"out": untouched(shape, int)}, TypeError, "out", ("int64", "float32")),
        Wrong("byte-swapped", {"out": untouched(shape, swapped)}, TypeError, "out"),
        Wrong("list", {"out": untouched(shape).tolist()}, TypeError, "out", ("list",)),
        Wrong("read-only", {"out": fixed}, ValueError, "out", ("read-only",)),
        # One element in many places: whatever is written, most of it is lost.
        Wrong("broadcast", {"out": np.broadcast_to(fixed[:1, :1], shape)}, ValueError, "out"),
    ]


@pytest.mark.parametrize("index", range(len(outs(Y))), ids=[wrong.id for wrong in outs(Y)])
@pytest.mark.parametrize(
    ("call", "shape"), RESULTS.items(), ids=[call.__name__ for call in RESULTS]
)
def test_out(call: Callable[..., Any], shape: tuple[int, ...], index: int) -> None:
    assert_refused(call, outs(shape)[index])


@by_entry(ENTRIES)
@pytest.mark.parametrize("padding", [2**62, 2**63, 2**70])
def test_padding_beyond_64_bits(padding: int, call: Callable[..., Any]) -> None:
    # Beyond memory and beyond the integers of the kernels: either complaint is right.
    with pytest.raises((MemoryError, ValueError), match="padding"):
        call(padding=padding)


def test_true_is_no_extent() -> None:
    square = ones((1, 1, 1, 1))
    assert lc.conv2d_input_grad(square, square, square.shape).shape == square.shape
    with pytest.raises(TypeError, match=r"\bx_shape\b.*True"):
        lc.conv2d_input_grad(square, square, (1, 1, True, 1))
    with pytest.raises(TypeError, match=r"\bw_shape\b.*True"):
        lc.conv2d_weight_grad(square, square, (True, 1, 1, 1))


def test_right_calls_that_the_mistakes_are_made_in() -> None:
    """Each mistake above is the only one: without it the calls succeed."""
    for call, shape in RESULTS.items():
        assert call().shape == shape
    assert plan() is not None
