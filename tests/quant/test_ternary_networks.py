"""Integer networks with ternary weights: 2 bits each in memory and in files, and zeros skipped."""

import copy

import numpy as np
import pytest

import lowerconv as lc
from lowerconv import quant
from lowerconv.ops.ternary_codes import TernaryCodes
from lowerconv.quant import conv, store
from lowerconv.quant.conv import IntegerConv2d
from tests.quant.networks import images, make


@pytest.fixture(scope="module")
def network():
    net = quant.prepare(make("residual"), ternary_weights=True)
    return lc.quantize(net, images())


def convolutions(network):
    return [layer for layer in network.layers if isinstance(layer, IntegerConv2d)]


def test_weights_have_2_bits(network):
    first, *middle, last = convolutions(network)
    assert [type(layer.filters.codes) for layer in (first, last)] == [np.ndarray] * 2
    for layer in middle:
        codes = layer.filters.codes
        assert isinstance(codes, TernaryCodes)
        K, size = codes.shape[0], int(np.prod(codes.shape[1:]))
        assert layer.own_buffers()["codes"].nbytes == 2 * K * -(-size // 8)
        assert 0 < layer.filters.nonzero < K * size


def test_both_algorithms_compute_the_same(network):
    x, found = images(3, seed=4), []
    for algorithm in ("fused", "ternary"):
        other = copy.deepcopy(network)
        for layer in convolutions(other)[1:-1]:
            layer.algorithm = algorithm
        found.append(other(x))
        rows = other.explain(x.shape).layers
        assert sum(row.algorithm == algorithm for row in rows) >= len(convolutions(other)) - 2
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(network(x), found[0])


def test_files_have_2_bits(network, tmp_path):
    path = tmp_path / "q.safetensors"
    network.save(path)
    read = quant.load(path)
    for ours, theirs in zip(convolutions(network), convolutions(read), strict=True):
        assert type(ours.filters.codes) is type(theirs.filters.codes)
        np.testing.assert_array_equal(ours.filters.unpacked, theirs.filters.unpacked)
    assert read.nbytes == network.nbytes
    x = images(2)
    np.testing.assert_array_equal(read(x), network(x))


def test_files_with_bytes_are_read(network, tmp_path, monkeypatch):
    """As they were written before: codes of any value were arrays of bytes."""
    path, x = tmp_path / "q.safetensors", images(2)
    with monkeypatch.context() as patch:
        patch.setattr(conv, "is_ternary", lambda codes: False)
        old = copy.deepcopy(network)
        for layer in convolutions(old):
            numbers = layer.filters
            layer.filters = conv.Filters(numbers.unpacked, numbers.scale, numbers.bias)
        old.save(path)
    size = path.stat().st_size
    read = quant.load(path)
    np.testing.assert_array_equal(read(x), network(x))
    read.save(path)
    assert path.stat().st_size < size
    np.testing.assert_array_equal(quant.load(path)(x), network(x))


def test_files_with_other_bits_are_refused(network, tmp_path, monkeypatch):
    """What a checksum cannot tell: the writer was wrong."""
    path = tmp_path / "q.safetensors"
    written = store._written

    def wrong(value, tensors, name):
        found = written(value, tensors, name)
        if isinstance(value, TernaryCodes):
            tensors[f"{name}.bits"] = np.full_like(value.bits, 255)
        return found

    monkeypatch.setattr(store, "_written", wrong)
    network.save(path)
    with pytest.raises(ValueError, match="damaged: bits: got a weight that is both 1 and -1"):
        quant.load(path)
