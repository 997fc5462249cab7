"""The GEMM called through its address, and the threads of BLAS."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lowerconv.ops import blas
from lowerconv.ops.matmul import matmul, split


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 7), (64, 1, 9), (70, 600, 33), (300, 130, 80)])
def test_matmul(dtype, trans_a, trans_b, shape):
    m, n, k = shape
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if trans_a else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if trans_b else (k, n)).astype(dtype)
    c = np.full((m, n), np.nan, dtype)
    matmul(a, b, c, trans_a=trans_a, trans_b=trans_b)
    exact = (a.T if trans_a else a).astype(float) @ (b.T if trans_b else b)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert np.abs(c - exact).max() <= tolerance * np.abs(exact).max()


def test_gemm_accumulates_into_a_block():
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    c = np.ones((5, 9))
    blas.gemm(blas.gemm_address(c.dtype), a, False, b[:, 1:], False, 1, c[1:, 2:], 2, 3, 3, 3, 4, 9)
    expected = np.ones((5, 9))
    expected[1:3, 2:5] += a @ b[:, 1:]
    assert np.array_equal(c, expected)


@pytest.fixture
def libraries():
    """Return threadpoolctl's handles of SciPy's BLAS, each with three threads."""
    with threadpool_limits(3, user_api="blas"):
        found = blas._blas_libraries()
        assert found
        assert [library.get_num_threads() for library in found] == [3] * len(found)
        yield found


def test_blas_is_held_at_one_thread_and_released(libraries):
    threads = blas.blas(np.dtype(np.float32)).threads
    assert len(threads) == len(libraries)
    for before in (3, 1, 2):
        for library in libraries:
            library.set_num_threads(before)
        blas.hold(threads)
        assert [library.get_num_threads() for library in libraries] == [1] * len(libraries)
        blas.release(threads)
        assert [library.get_num_threads() for library in libraries] == [before] * len(libraries)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("openblas", ["scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"]),
        ("openblas", ["openblas_get_num_threads", "openblas_set_num_threads"]),
        ("openblas on openmp", ["omp_get_max_threads", "omp_set_num_threads"]),
        ("mkl", ["MKL_Get_Max_Threads", "MKL_Set_Num_Threads_Local"]),
        ("blis", ["bli_thread_get_num_threads", "bli_thread_set_num_threads"]),
        ("flexiblas", ["flexiblas_get_num_threads", "flexiblas_set_num_threads"]),
    ],
)
def test_the_functions_of_every_kind_of_blas_are_found(kind, names):
    kept = [ctypes.CFUNCTYPE(None)(lambda: None) for _ in names]
    library = SimpleNamespace(**dict(zip(names, kept, strict=True)))
    addresses = [blas._address(library, name) for name in blas.THREAD_FUNCTIONS[kind]]
    assert addresses == [ctypes.cast(function, ctypes.c_void_p).value for function in kept]
    assert blas._address(SimpleNamespace(), "MKL_Get_Max_Threads") == 0


@pytest.mark.parametrize("m", [1, 63, 64, 1000])
@pytest.mark.parametrize("n", [1, 255, 512, 100_000])
@pytest.mark.parametrize("k", [1, 27, 5000])
def test_split_never_makes_empty_blocks(m, n, k):
    rows, columns = split(m, n, k)
    assert 1 <= rows <= m
    assert 1 <= columns <= n
