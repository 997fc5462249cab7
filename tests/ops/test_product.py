"""Products with a packed matrix, beside NumPy's."""

import numpy as np
import pytest

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.codegen.isa import host_isa
from lowerconv.ops.product import PackedProduct, pack, packed_product
from lowerconv.runtime.threads import parallel_region

EXTENTS = [(1, 1, 1), (5, 7, 3), (14, 32, 16), (15, 33, 17), (28, 48, 40), (41, 100, 7), (9, 16, 1)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("extents", EXTENTS, ids=str)
def test_beside_numpy(extents, dtype):
    rows, columns, k = extents
    rng = np.random.default_rng(5)
    x, w = (rng.standard_normal(s).astype(dtype) for s in ((rows, k), (columns, k)))
    bias, before = rng.standard_normal(columns).astype(dtype), np.full((rows, columns), 3, dtype)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    cases = [
        (None, lambda y: y),
        (RELU, lambda y: np.maximum(y, 0)),
        (Activation("clip", -0.5, 0.5), lambda y: np.clip(y, -0.5, 0.5)),
    ]
    for activation, applied in cases:
        product = PackedProduct(rows, columns, k, np.dtype(dtype), host_isa(), activation)
        packed = pack(w, product.NR)
        for given in (bias, bias[:0]):
            for add in (False, True):
                bits = set()
                for threads in (1, 2, 3):
                    room = np.full(rows * columns + 64, 7, dtype)
                    y = room[32:-32]
                    y[:] = before.reshape(-1)
                    with parallel_region(threads) as team:
                        flat = x.reshape(-1)
                        arguments = product.arguments()
                        packed_product(team, flat, packed, given, y, add, arguments)
                    right = exact + (given if given.size else 0) + (before if add else 0)
                    right = applied(right).reshape(-1)
                    np.testing.assert_allclose(y, right, rtol=tolerance, atol=20 * tolerance)
                    assert (room[:32] == 7).all() and (room[-32:] == 7).all()
                    bits.add(y.tobytes())
                assert len(bits) == 1


def test_packed_panels():
    w = np.arange(10, dtype=np.float32).reshape(5, 2)
    packed = pack(w, 4)
    assert packed.shape == (2, 2, 4)
    np.testing.assert_array_equal(packed[0], w[:4].T)
    np.testing.assert_array_equal(packed[1], [[8, 0, 0, 0], [9, 0, 0, 0]])
