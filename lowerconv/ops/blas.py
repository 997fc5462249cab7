"""The library GEMM, called from compiled code through its address.

SciPy publishes its BLAS as C function pointers (``scipy.linalg.cython_blas``).  The pointer travels
as an integer argument and an intrinsic casts it back and calls it: numba could not cache a function
with the pointer baked in, because the pointer changes with every process.
"""

from __future__ import annotations

import ctypes
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from lowerconv.codegen.compiled import njit
from lowerconv.codegen.emit import Builder
from lowerconv.codegen.signatures import SetThreads
from lowerconv.copying import not_copied
from lowerconv.runtime.launch import call, call_for_int

GEMM_LIMIT = 2**31 - 1  # extents travel to BLAS as 32-bit integers

# What each library calls the functions that tell how many threads it uses, and set it, as
# threadpoolctl knows them.  SciPy's OpenBLAS has names with affixes.
THREAD_FUNCTIONS = {
    "openblas": ("openblas_get_num_threads", "openblas_set_num_threads"),
    "openblas on openmp": ("omp_get_max_threads", "omp_set_num_threads"),
    "mkl": ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads_Local"),
    "blis": ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
    "flexiblas": ("flexiblas_get_num_threads", "flexiblas_set_num_threads"),
}
AFFIXES = [(prefix, suffix) for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")]

TELL, SET, HAD = range(3)  # of `Blas.threads`


@not_copied("ask for `blas()`")
class Blas(NamedTuple):
    """BLAS as compiled code takes it.

    Attributes
    ----------
    gemm : int
        Address of ``sgemm`` or ``dgemm``.
    threads : ndarray of int64, (libraries, 3)
        For every library that this BLAS is: the addresses of the functions that tell and set how
        many threads it uses, and a place for how many it had when it was held at one.
    """

    gemm: int
    threads: np.ndarray


@lru_cache
def blas(dtype: np.dtype) -> Blas:
    """Return SciPy's BLAS for a dtype."""
    return Blas(gemm_address(dtype), _thread_functions())


@lru_cache
def _thread_functions() -> np.ndarray:
    rows = []
    for library in _blas_libraries():
        kind = library.internal_api
        if kind == "openblas" and getattr(library, "threading_layer", "") == "openmp":
            kind += " on openmp"
        addresses = [_address(library.dynlib, name) for name in THREAD_FUNCTIONS.get(kind, ())]
        if len(addresses) == 2 and all(addresses):
            rows.append([*addresses, 0])
    return np.array(rows, np.int64).reshape(-1, 3)


def _address(library: ctypes.CDLL, name: str) -> int:
    """Return the address of a function of a library; 0 if it has none of this name."""
    for prefix, suffix in AFFIXES:
        function = getattr(library, f"{prefix}{name}{suffix}", None)
        if function is not None:
            return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0


@lru_cache
def gemm_address(dtype: np.dtype) -> int:
    """Return the address of ``sgemm`` or ``dgemm`` in SciPy's BLAS."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__["sgemm" if dtype == np.float32 else "dgemm"]
    name = ctypes.pythonapi.PyCapsule_GetName
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = name(capsule)
    if not re.match(rb"void \(char \*, char \*, int \*", signature):
        raise RuntimeError(
            f"scipy.linalg.cython_blas: got a GEMM declared as {signature.decode()!r}, "
            "expected 32-bit integers"
        )
    return pointer(capsule, signature)


@lru_cache
def _blas_libraries() -> tuple[Any, ...]:
    """Return threadpoolctl's handles of the BLAS that `gemm` calls."""
    gemm_address(np.dtype(np.float32))  # loads SciPy's BLAS
    from threadpoolctl import ThreadpoolController

    libraries = ThreadpoolController().select(user_api="blas").lib_controllers
    # SciPy's wheels bring a copy of their own, and NumPy's is then none of our business; where
    # there is no such copy, SciPy shares whatever there is.
    own = [
        library
        for library in libraries
        # Not the name of the file: NumPy's copy is named after SciPy too.
        if {"scipy", "scipy.libs"} & set(Path(library.filepath).parent.parts)
    ]
    return tuple(own or libraries)


@lru_cache
def has_small_kernels() -> bool:
    """Return whether BLAS multiplies small matrices without packing them first.

    OpenBLAS does, in its kernels for AVX-512, up to a hundred cubed multiplications.
    """
    architectures = {"SkylakeX", "Cooperlake", "SapphireRapids"}
    return any(
        getattr(library, "architecture", None) in architectures for library in _blas_libraries()
    )


@njit(cache=True, nogil=True)
def hold(threads):
    """Have BLAS use one thread for each caller: each core of ours multiplies its own piece.

    `threads` is that of `Blas`.  This and `release` are for compiled code alone, in the same call:
    there a signal of the user, or an error, never comes in between.
    """
    for i in range(len(threads)):
        threads[i, HAD] = np.int32(call_for_int(threads[i, TELL]))
        if threads[i, HAD] > 1:
            call(threads[i, SET], SetThreads(np.int64(1)))


@njit(cache=True, nogil=True)
def release(threads):
    """Give BLAS the threads that it had before `hold`."""
    for i in range(len(threads)):
        if threads[i, HAD] > 1:
            call(threads[i, SET], SetThreads(threads[i, HAD]))


@intrinsic
def _call_gemm(
    typing_context, address, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
):
    """Call the Fortran GEMM at `address`; extents are int32, `a`, `b`, `c` are arrays."""
    signature = types.void(
        types.intp,
        types.uint8,
        types.uint8,
        *[types.int32] * 3,
        alpha,
        a,
        types.int32,
        b,
        types.int32,
        beta,
        c,
        types.int32,
    )

    def codegen(context, builder, signature, arguments):
        pointers = []
        for kind, value in zip(signature.args[1:], arguments[1:], strict=True):
            if isinstance(kind, types.Array):
                array = cgutils.create_struct_proxy(kind)(context, builder, value)
                pointers.append(array.data)
            else:  # Fortran takes every argument by reference
                pointers.append(cgutils.alloca_once_value(builder, value))
        Builder(builder).call(arguments[0], pointers)
        return context.get_dummy_value()

    return signature, codegen


_N, _T = np.uint8(ord("N")), np.uint8(ord("T"))


@njit(cache=True, nogil=True)
def gemm(address, a, trans_a, b, trans_b, beta, c, m, n, k, lda, ldb, ldc):
    """Compute ``c = a b + beta c`` for row-major blocks.

    The blocks begin at the first elements of the arrays: `a` is m x k (k x m if `trans_a`), `b` is
    k x n (n x k if `trans_b`), `c` is m x n; `lda`, `ldb`, `ldc` are the distances of their rows.
    BLAS counts columns first and sees every block transposed: c^T = b^T a^T.
    """
    _call_gemm(  # type: ignore[call-arg]  # numba supplies the typing context
        address,
        _T if trans_b else _N,
        _T if trans_a else _N,
        np.int32(n),
        np.int32(m),
        np.int32(k),
        c.dtype.type(1),
        b,
        np.int32(ldb),
        a,
        np.int32(lda),
        c.dtype.type(beta),
        c,
        np.int32(ldc),
    )
