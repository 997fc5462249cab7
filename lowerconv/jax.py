"""The convolution as a function of JAX, which is imported here alone.

The convolution and its two gradients are callbacks (`jax.pure_callback`): JAX compiles and
differentiates what is around them.  Inside a callback is NumPy only, since JAX there would wait for
itself.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    raise ImportError("lowerconv.jax needs JAX: pip install 'lowerconv[jax]'") from None

from lowerconv import functional
from lowerconv.conv.problem import conv_problem

__all__ = ["conv2d"]


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Return the convolution of a batch; differentiable once, under `jit`, `grad` and `vmap`.

    Parameters
    ----------
    x : jax.Array, (N, C, H, W), float32 or float64
        Of float64 where JAX has it enabled.
    w : jax.Array, (K, C/groups, R, S)
    bias : jax.Array, (K,), optional
    stride, padding, dilation, groups : optional
        As for :func:`lowerconv.conv2d`; no arrays of JAX.

    Returns
    -------
    jax.Array, (N, K, P, Q)

    Raises
    ------
    TypeError, ValueError
        As :func:`lowerconv.conv2d`, while the function is traced.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from lowerconv.jax import conv2d
    >>> x, w = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
    >>> jax.jit(conv2d)(x, w).shape
    (1, 4, 6, 6)
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    if x.dtype != w.dtype:
        raise TypeError(f"w: got dtype {w.dtype}, expected {x.dtype} like x")
    geometry = (_hashable(stride), _hashable(padding), _hashable(dilation), int(groups))
    conv_problem(x.shape, w.shape, *geometry, x.dtype, names=("x", "w"))  # raises by name
    y = _conv2d(geometry, x, w)
    return y if bias is None else y + jnp.asarray(bias).reshape(1, -1, 1, 1)


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, (list, tuple)) else value


def _call(function: Any, result: Any, *arrays: Any) -> Any:
    return jax.pure_callback(function, result, *arrays, vmap_method="sequential")


def _array(value: Any) -> np.ndarray:
    """Return an operand of a callback as NumPy has it, without entering JAX."""
    return np.ascontiguousarray(np.asarray(value))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv2d(geometry: tuple[Any, Any, Any, int], x: Any, w: Any) -> Any:
    problem = conv_problem(x.shape, w.shape, *geometry, x.dtype)
    result = jax.ShapeDtypeStruct((problem.N, problem.K, problem.P, problem.Q), x.dtype)

    def run(x: Any, w: Any) -> np.ndarray:
        return functional.conv2d(_array(x), _array(w), None, *geometry)

    return _call(run, result, x, w)


def _forward(geometry: tuple[Any, ...], x: Any, w: Any) -> Any:
    return _conv2d(geometry, x, w), (x, w)


def _backward(geometry: tuple[Any, ...], kept: Any, dy: Any) -> Any:
    x, w = kept

    def input_grad(dy: Any, w: Any) -> np.ndarray:
        return functional.conv2d_input_grad(_array(dy), _array(w), x.shape, *geometry)

    def weight_grad(dy: Any, x: Any) -> np.ndarray:
        return functional.conv2d_weight_grad(_array(dy), _array(x), w.shape, *geometry)

    dx = _call(input_grad, jax.ShapeDtypeStruct(x.shape, x.dtype), dy, w)
    return dx, _call(weight_grad, jax.ShapeDtypeStruct(w.shape, w.dtype), dy, x)


_conv2d.defvjp(_forward, _backward)
