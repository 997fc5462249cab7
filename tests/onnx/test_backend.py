"""ONNX's own tests of backends: every operator of the table in all its variants, and whole models.

What is left out is told below, each with its reason; the tests that run are all others.
"""

import os
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx.backend.test.loader import load_model_tests  # noqa: E402
from onnx.backend.test.runner import Runner  # noqa: E402

from lowerconv.onnx.backend import Backend  # noqa: E402
from lowerconv.onnx.bodies import every_proto  # noqa: E402
from lowerconv.onnx.registry import OPERATORS  # noqa: E402

SEQUENCES = "its values are sequences or optional ones, not arrays"
STRINGS = "works on strings"
RANDOM = "draws random numbers, which no two libraries draw alike"
CLASSICAL = "no operator of neural networks"
UPDATES = "updates parameters: networks are trained by lowerconv.train"

# Operators that are not in the table.
NOT_HERE = {
    "Scan": "runs a part of a graph for each item of an axis",
    **dict.fromkeys(
        (
            *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceMap"),
            *("SequenceInsert", "SequenceLength", "ConcatFromSequence", "SplitToSequence"),
            *("OptionalGetElement", "OptionalHasElement", "Optional"),
        ),
        SEQUENCES,
    ),
    **dict.fromkeys(
        ("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"),
        STRINGS,
    ),
    **dict.fromkeys(("Bernoulli", "RandomUniformLike"), RANDOM),
    **dict.fromkeys(
        ("ArrayFeatureExtractor", "Binarizer", "LabelEncoder", "TreeEnsemble"), CLASSICAL
    ),
    **dict.fromkeys(("Adagrad", "Adam", "Gradient", "Momentum"), UPDATES),
    **dict.fromkeys(
        ("CausalConvWithState", "FlexAttention", "LinearAttention", "SwiGLU", "TensorScatter"),
        "a part of language models",
    ),
    "BitCast": "reads numbers as bits of other types",
    "ImageDecoder": "reads picture files",
}
# Tests of operators that are in it.
EXCLUDED = {
    r"test_identity_(sequence|opt)": SEQUENCES,
    r"test_attention_4d_causal_fp16_expanded": (
        "numbers of 16 bits are computed in float32, more exactly than the expected ones"
    ),
}


def unknown() -> dict[str, set[str]]:
    """Return the operators that are not in the table by the tests that have them."""
    found = {}
    for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            model = case.model or onnx.load(os.path.join(case.model_dir, "model.onnx"))
            missing = {node.op_type for node in every_proto(model.graph.node)} - {*OPERATORS}
            if missing:
                found[case.name] = missing
    return found


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what computes the expected results
    UNKNOWN = unknown()


def cases() -> dict[str, type]:
    """Return the classes of tests that run, without those that do not."""
    runner = Runner(Backend, __name__)
    for name in UNKNOWN:
        runner.exclude(f"^{name}_(cpu|cuda)$")
    for pattern in EXCLUDED:
        runner.exclude(pattern)
    found = runner.test_cases
    for case in found.values():
        for name in [name for name in vars(case) if name.startswith("test_")]:
            if getattr(getattr(case, name), "__unittest_skip__", False):
                delattr(case, name)
    return found


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    globals().update(cases())


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch):
    """Have what tests write about whole models in a folder of their own."""
    monkeypatch.setenv("ONNX_MODELS", str(tmp_path))


def test_operators_that_are_left_out_are_all_told():
    assert {name for names in UNKNOWN.values() for name in names} <= {*NOT_HERE}


def test_one_node_runs():
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    (y,) = Backend.run_node(node, [np.array([-1.0, 2.0], np.float32)])
    assert y.tolist() == [0, 2]
    with pytest.raises(ValueError, match="device: got 'CUDA', expected 'CPU'"):
        Backend.prepare(onnx.ModelProto(), "CUDA")
