"""Small networks of operators with constant operands, as files have them.

Each function returns nodes from ``x`` to ``y``, the shape of ``x``, and the constants.
"""

import numpy as np
from onnx import helper

PIXELS = {1: (11,), 2: (9, 12), 3: (5, 7, 6)}


def numbers(rng, *shape) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def windows(rng, axes: int, same: bool = True) -> dict:
    """Return random attributes of a convolution or pooling."""
    found = {"strides": rng.integers(1, 3, axes).tolist()}
    mode = rng.choice(["pads", "uneven", "VALID", *(["SAME_UPPER", "SAME_LOWER"] if same else [])])
    if mode == "pads":
        found["pads"] = [1] * 2 * axes
    elif mode == "uneven":
        found["pads"] = rng.integers(0, 2, 2 * axes).tolist()
    else:
        found["auto_pad"] = str(mode)
    return found


def conv(rng, axes: int):
    groups = int(rng.choice([1, 2, 4]))
    extents = rng.integers(1, 4, axes).tolist()
    attributes = windows(rng, axes) | {"dilations": rng.integers(1, 3, axes).tolist()}
    if attributes.get("auto_pad", "VALID") != "VALID":
        attributes["dilations"] = [1] * axes  # the reference has other padding for these
    constants = {"w": numbers(rng, 8, 4 // groups, *extents), "b": numbers(rng, 8)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **attributes)
    return [node], (2, 4, *PIXELS[axes]), constants


def conv_transpose(rng, axes: int):
    groups = int(rng.choice([1, 2]))
    strides = rng.integers(1, 4, axes).tolist()
    attributes = {"strides": strides, "pads": rng.integers(0, 2, 2 * axes).tolist()}
    if rng.random() < 0.5:
        attributes["output_padding"] = [s - 1 for s in strides]
    constants = {"w": numbers(rng, 4, 3, *[3] * axes), "b": numbers(rng, 3 * groups)}
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], group=groups, **attributes)
    return [node], (2, 4, *PIXELS[axes]), constants


def pool(rng, kind: str, axes: int):
    attributes = windows(rng, axes) | {"kernel_shape": [2 + axes % 2] * axes}
    if kind == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    elif "auto_pad" not in attributes and kind == "MaxPool":
        attributes["dilations"] = rng.integers(1, 3, axes).tolist()
    return [helper.make_node(kind, ["x"], ["y"], **attributes)], (2, 3, *PIXELS[axes]), {}


def resize(rng):
    mode = str(rng.choice(["nearest", "linear", "cubic"]))
    way = str(rng.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]))
    sizes = [2, 3, *map(int, rng.integers(4, 25, 2))]
    node = helper.make_node(
        "Resize", ["x", "", "", "n"], ["y"], mode=mode, coordinate_transformation_mode=way
    )
    return [node], (2, 3, 9, 12), {"n": np.array(sizes)}


def per_channel(rng):
    """An affine function of each channel, as scaled pictures have it."""
    nodes = [
        helper.make_node("Sub", ["x", "mean"], ["a"]),
        helper.make_node("Div", ["a", "deviation"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["y"]),
    ]
    constants = {
        **{"mean": numbers(rng, 3, 1, 1), "deviation": np.abs(numbers(rng, 1, 3, 1, 1)) + 1},
        "w": numbers(rng, 4, 3, 3, 3),
    }
    return nodes, (2, 3, 9, 12), constants


def last_channels(rng):
    """A network of images whose channels come last: transposes that cancel."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 3, 1, 2]),
        node("Conv", ["a", "w"], ["b"], auto_pad="SAME_UPPER"),
        node("Transpose", ["b"], ["c"], perm=[0, 2, 3, 1]),
        node("PRelu", ["c", "slope"], ["d"]),
        node("Transpose", ["d"], ["e"], perm=[0, 3, 1, 2]),
        node("MaxPool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", ["f"], ["y"], perm=[0, 2, 3, 1]),
    ]
    return nodes, (2, 9, 12, 3), {"w": numbers(rng, 4, 3, 3, 3), "slope": numbers(rng, 1, 1, 4)}


def hard_swish(rng, linear=False):
    """As exporters have written it: x * clip(x + 3, 0, 6) / 6, behind a batch norm.

    PaddleOCR's networks have a factor and a summand before it.
    """
    node, before = helper.make_node, "g" if linear else "n"
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
        *([node("Mul", ["n", "six"], ["f"]), node("Sub", ["f", "three"], ["g"])] if linear else []),
        node("Add", [before, "three"], ["a"]),
        node("Clip", ["a", "zero", "six"], ["b"]),
        node("Mul", [before, "b"], ["d"]),
        node("Div", ["d", "six"], ["y"]),
    ]
    constants = {
        **{"w": numbers(rng, 4, 3, 3, 3), "s": numbers(rng, 4), "t": numbers(rng, 4)},
        **{"m": numbers(rng, 4), "v": np.abs(numbers(rng, 4)) + 1},
        **{n: np.array(v, np.float32) for n, v in (("three", 3), ("zero", 0), ("six", 6))},
    }
    return nodes, (2, 3, 9, 12), constants


def scaled_hard_swish(rng):
    """The same between a factor and a summand on both sides, and padding apart."""
    node = helper.make_node
    nodes = [
        node("Pad", ["x", "pads"], ["p"]),
        node("Conv", ["p", "w"], ["c"], pads=[1, 0, 0, 0]),
        node("Mul", ["c", "scale"], ["m"]),
        node("Add", ["m", "shift"], ["n"]),
        *hard_swish(rng)[0][2:5],
        node("Mul", ["d", "scale"], ["e"]),
        node("Add", ["e", "shift"], ["y"]),
    ]
    constants = {"w": numbers(rng, 4, 3, 3, 3), "pads": np.array([0, 0, 0, 1, 0, 0, 1, 2])}
    numbers_of = {"three": 3, "zero": 0, "six": 6, "scale": 0.7, "shift": -0.3}
    constants |= {name: np.array(value, np.float32) for name, value in numbers_of.items()}
    return nodes, (2, 3, 9, 12), constants


def squeeze_and_excite(rng):
    node = helper.make_node
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]),
        node("Conv", ["p", "w1", "b1"], ["q"]),
        node("Relu", ["q"], ["r"]),
        node("Conv", ["r", "w2"], ["s"]),
        node("HardSigmoid", ["s"], ["g"], alpha=1 / 6, beta=0.5),
        node("Mul", ["x", "g"], ["y"]),
    ]
    constants = {
        "w1": numbers(rng, 2, 4, 1, 1),
        "b1": numbers(rng, 2),
        "w2": numbers(rng, 4, 2, 1, 1),
    }
    return nodes, (2, 4, 9, 12), constants


def normalized(rng, kind: str):
    more = {"GroupNormalization": {"num_groups": 2}}.get(kind, {})
    size = (12,) if kind == "LayerNormalization" else (4,)
    node = helper.make_node(kind, ["x", "s", "t"], ["y"], **more)
    return [node], (2, 4, 9, 12), {"s": numbers(rng, *size), "t": numbers(rng, *size)}


def recurrent(rng, kind: str):
    gates, way = (
        {"LSTM": 4, "GRU": 3, "RNN": 1}[kind],
        str(rng.choice(["reverse", "bidirectional"])),
    )
    D = 2 if way == "bidirectional" else 1
    D, way = (1, "forward") if kind != "LSTM" and D == 1 else (D, way)
    constants = {
        "w": numbers(rng, D, gates * 5, 3),
        "r": numbers(rng, D, gates * 5, 5),
        "b": numbers(rng, D, 2 * gates * 5),
    }
    node = helper.make_node(kind, ["x", "w", "r", "b"], ["y"], hidden_size=5, direction=way)
    return [node], (7, 2, 3), constants


def one(operator: str, *operands: str, shape=(2, 4, 9, 12), **attributes):
    def build(rng):
        constants = {name: numbers(rng, *[12] * 2) for name in operands}
        return [helper.make_node(operator, ["x", *operands], ["y"], **attributes)], shape, constants

    return build


CASES = {
    **{f"Conv {n}-D": lambda rng, n=n: conv(rng, n) for n in (1, 2, 3)},
    **{f"ConvTranspose {n}-D": lambda rng, n=n: conv_transpose(rng, n) for n in (1, 2, 3)},
    **{
        f"{kind} {n}-D": lambda rng, kind=kind, n=n: pool(rng, kind, n)
        for kind in ("MaxPool", "AveragePool")
        for n in (1, 2, 3)
    },
    "Resize": resize,
    "constants per channel": per_channel,
    "channels last": last_channels,
    "HardSwish of parts": hard_swish,
    "HardSwish of parts, scaled": scaled_hard_swish,
    "HardSwish of a linear function": lambda rng: hard_swish(rng, True),
    "squeeze and excite": squeeze_and_excite,
    **{
        kind: lambda rng, kind=kind: normalized(rng, kind)
        for kind in ("InstanceNormalization", "GroupNormalization", "LayerNormalization")
    },
    **{kind: lambda rng, kind=kind: recurrent(rng, kind) for kind in ("LSTM", "GRU", "RNN")},
    "MatMul": one("MatMul", "w"),
    "Softmax": one("Softmax", axis=1),
    "LRN": one("LRN", size=3),
    "DepthToSpace": one("DepthToSpace", blocksize=2),
    "ReduceL2": one("ReduceL2", axes=[2, 3]),
    "Gelu": one("Gelu", approximate="tanh"),
    "Mish": one("Mish"),
}
