"""Damaged files: an error that says what is wrong, never a crash, and never an endless run."""

import os
import random

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX files")

from onnx import helper, numpy_helper  # noqa: E402

import lowerconv.onnx  # noqa: E402
from lowerconv.onnx import OnnxError  # noqa: E402

from .networks import model_of, small_model  # noqa: E402

CHANGES = 300
X = np.ones((1, 3, 12, 12), np.float32)
EXPECTED = (OnnxError, OSError, TypeError, ValueError)


def change_bytes(model, rng: random.Random) -> bytes:
    content = bytearray(model.SerializeToString())
    for _ in range(rng.choice([1, 1, 3, 20])):
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def cut(model, rng: random.Random) -> bytes:
    content = model.SerializeToString()
    begin = rng.randrange(len(content))
    return content[:begin] + content[begin + rng.choice([1, 50, len(content)]) :]


def remove(model, rng: random.Random) -> bytes:
    rows = rng.choice([model.graph.node, model.graph.initializer, model.graph.input])
    del rows[rng.randrange(len(rows))]
    return model.SerializeToString()


def change_attribute(model, rng: random.Random) -> bytes:
    attribute = rng.choice([a for node in model.graph.node for a in node.attribute])
    number = rng.choice([-1, 0, 2, 7, 2**31, -(2**40)])
    if attribute.type == onnx.AttributeProto.INTS:
        if rng.random() < 0.3:
            attribute.ints.append(number)
        else:
            attribute.ints[rng.randrange(len(attribute.ints))] = number
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = rng.choice([b"", b"other", b"\xff\xfe"])
    elif rng.random() < 0.3:
        attribute.type = onnx.AttributeProto.FLOAT
    else:
        attribute.i = number
    return model.SerializeToString()


def rewire(model, rng: random.Random) -> bytes:
    """Have a node read or write another tensor: types, cycles, what is made twice."""
    names = [n for node in model.graph.node for n in (*node.input, *node.output)] + ["nothing"]
    rows = rng.choice(model.graph.node)
    row = rng.choice([rows.input, rows.output])
    if rng.random() < 0.3:
        del row[rng.randrange(len(row))]
    else:
        row[rng.randrange(len(row))] = rng.choice(names)
    return model.SerializeToString()


def change_tensor(model, rng: random.Random) -> bytes:
    tensor = rng.choice(model.graph.initializer)
    array = numpy_helper.to_array(tensor)
    if rng.random() < 0.5 and array.size > 1:
        changed = array.reshape(-1)[: rng.randrange(array.size)]
    elif array.dtype == np.int64:
        changed = np.full_like(array, rng.choice([-7, 0, 2**31, 2**62, -(2**62)]))
    else:
        changed = array.astype(rng.choice([np.float64, np.int64, np.float16]))
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    return model.SerializeToString()


def change_extents(model, rng: random.Random) -> bytes:
    tensor = rng.choice(model.graph.initializer)
    tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([-1, 0, 3, 2**40])
    return model.SerializeToString()


KINDS = (
    *(change_bytes, change_bytes, cut, remove, change_attribute, change_attribute, rewire, rewire),
    *(change_tensor, change_extents),
)


@pytest.mark.parametrize("part", range(10))
def test_random_changes_are_errors_and_no_crashes(part):
    refused = 0
    for i in range(CHANGES // 10):
        seed = part * 1000 + i
        rng = random.Random(seed)
        change = rng.choice(KINDS)
        print(f"seed {seed}: {change.__name__}")  # shown where it fails
        content = change(small_model(np.random.default_rng(1)), rng)
        try:
            with np.errstate(all="ignore"):
                lowerconv.onnx.load(content)(X)
        except EXPECTED as error:
            assert str(error)
            refused += 1
    assert refused


def test_what_is_no_model_is_told(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("this is no model")
    with pytest.raises(OnnxError, match=r"text\.onnx"):
        lowerconv.onnx.load(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        lowerconv.onnx.load(tmp_path / "absent.onnx")
    with pytest.raises(OnnxError, match="has no graph with outputs"):
        lowerconv.onnx.load(b"")
    with pytest.raises(TypeError, match="source: got int"):
        lowerconv.onnx.load(7)


def test_all_unknown_operators_are_told_at_once():
    nodes = [
        helper.make_node("Scan", ["x"], ["a"], name="round"),
        helper.make_node("Foo", ["a"], ["b"], domain="com.example"),
        helper.make_node("Foo", ["b"], ["y"], name="last", domain="com.example"),
    ]
    with pytest.raises(OnnxError) as told:
        lowerconv.onnx.load(model_of(nodes, {"x": [1]}, ["y"]))
    assert "Scan (round)" in str(told.value)
    assert "com.example.Foo (number 1, last)" in str(told.value)


def test_cycles_are_told():
    nodes = [helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    with pytest.raises(OnnxError, match="reads 'b', which no node before it makes"):
        lowerconv.onnx.load(model_of(nodes, {"x": [1]}, ["b"]))


def test_inputs_that_do_not_fit_are_told():
    net = lowerconv.onnx.load(small_model(np.random.default_rng(1)))
    with pytest.raises(ValueError, match=r"x: got shape \(1, 4, 12, 12\)"):
        net(np.ones((1, 4, 12, 12), np.float32))
    with pytest.raises(TypeError, match="x: got dtype float64, expected float32"):
        net(X.astype(np.float64))
    with pytest.raises(TypeError, match="got 2 arrays, expected 1: x"):
        net(X, X)
    with pytest.raises(TypeError, match="x: got a masked array"):
        net(np.ma.masked_array(X))


@pytest.fixture
def external(tmp_path):
    """Return the path of a model whose tensors are in a file beside it."""
    path = tmp_path / "model.onnx"
    options = {"location": "weights.bin", "size_threshold": 0, "convert_attribute": False}
    model = small_model(np.random.default_rng(1))
    onnx.save_model(model, path, save_as_external_data=True, **options)
    return path


def test_external_data_is_read(external):
    expected = lowerconv.onnx.load(small_model(np.random.default_rng(1)))(X)
    assert np.array_equal(lowerconv.onnx.load(external)(X), expected)


def test_what_is_too_large_for_a_file_is_written_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lowerconv.onnx.write.LARGEST", 1000)
    w = np.random.default_rng(0).standard_normal((64, 3, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    network = lowerconv.onnx.load(model_of(nodes, {"x": X.shape}, ["y"], {"w": w}))
    path = tmp_path / "net.onnx"
    for _ in range(2):  # the second time over what is there
        network.save_onnx(path)
        assert path.with_name("net.onnx.data").stat().st_size == w.nbytes > path.stat().st_size
        assert np.array_equal(lowerconv.onnx.load(path)(X), network(X))


@pytest.mark.skipif("LOWERCONV_LARGE" not in os.environ, reason="needs 12 GB: LOWERCONV_LARGE=1")
def test_models_above_2_gib_are_read_and_written(tmp_path):
    C = 17_000  # two times 1.1 GiB
    tensors = []
    for name in ("v", "w"):
        rows = np.zeros((C, C), np.float32)
        rows[np.arange(C), np.arange(C)[::-1]] = np.arange(C)
        rows.tofile(tmp_path / f"{name}.bin")
        place = onnx.StringStringEntryProto(key="location", value=f"{name}.bin")
        tensors.append(
            onnx.TensorProto(
                name=name,
                dims=(C, C, 1, 1),
                data_type=onnx.TensorProto.FLOAT,
                data_location=onnx.TensorProto.EXTERNAL,
                external_data=[place],
            )
        )
    del rows
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["y"]),
    ]
    model = model_of(nodes, {"x": [1, C, 1, 1]}, ["y"])
    model.graph.initializer.extend(tensors)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    x = np.ones((1, C, 1, 1), np.float32)
    expected = (np.arange(C)[::-1] * np.arange(C)).astype(np.float32)
    network = lowerconv.onnx.load(tmp_path / "model.onnx")
    np.testing.assert_allclose(network(x).reshape(-1), expected, rtol=1e-6)
    network.save_onnx(tmp_path / "again.onnx")
    del network
    again = lowerconv.onnx.load(tmp_path / "again.onnx")
    np.testing.assert_allclose(again(x).reshape(-1), expected, rtol=1e-6)


def test_external_data_that_cannot_be_read_is_told(external):
    weights = external.with_name("weights.bin")
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(OnnxError, match=r"model\.onnx"):
        lowerconv.onnx.load(external)
    weights.unlink()
    with pytest.raises(OnnxError, match=r"external data cannot be read.*weights\.bin"):
        lowerconv.onnx.load(external)


def test_external_data_elsewhere_is_refused(external):
    model = onnx.load(external, load_external_data=False)
    secret = external.parent.parent / "secret.bin"
    secret.write_bytes(bytes(100_000))
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../secret.bin"
    external.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxError, match="external data cannot be read"):
        lowerconv.onnx.load(external)


def test_bytes_with_external_data_are_told(external):
    with pytest.raises(OnnxError, match="is in another file"):
        lowerconv.onnx.load(external.read_bytes())
