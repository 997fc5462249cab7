"""The convolution as a function of JAX, beside JAX's own."""

import numpy as np
import pytest

pytest.importorskip("jax", reason="JAX is not installed")

import jax
import jax.numpy as jnp

from lowerconv.jax import conv2d


def reference(x, w, stride, padding, dilation, groups):
    sides = [(p, p) if isinstance(p, int) else p for p in padding]
    numbers = ("NCHW", "OIHW", "NCHW")
    return jax.lax.conv_general_dilated(
        x, w, stride, sides, None, dilation, numbers, feature_group_count=groups
    )


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (1, 1), (1, 1), 1),
        ((2, 1), (0, 2), (1, 2), 2),
        ((3, 2), ((1, 0), (0, 1)), (1, 1), 1),
    ],
)
def test_results_and_gradients(stride, padding, dilation, groups):
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.standard_normal((2, 4, 9, 11)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((6, 4 // groups, 3, 2)), jnp.float32)
    geometry = (stride, padding, dilation, groups)

    def loss(function, x, w):
        return (jnp.sin(function(x, w)) ** 2).sum()

    def ours(x, w):
        return conv2d(x, w, None, *geometry)

    def theirs(x, w):
        return reference(x, w, *geometry)

    np.testing.assert_allclose(jax.jit(ours)(x, w), theirs(x, w), rtol=1e-4, atol=1e-4)
    got = jax.jit(jax.grad(lambda x, w: loss(ours, x, w), argnums=(0, 1)))(x, w)
    want = jax.grad(lambda x, w: loss(theirs, x, w), argnums=(0, 1))(x, w)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_a_bias_and_batches_of_batches():
    x, w, b = jnp.ones((3, 2, 1, 5, 5)), jnp.ones((4, 1, 3, 3)), jnp.arange(4.0)
    y = jax.vmap(lambda x: conv2d(x, w, b))(x)
    assert y.shape == (3, 2, 4, 3, 3)
    np.testing.assert_array_equal(y[0, 0, :, 0, 0], 9 + np.arange(4))


def test_what_does_not_fit_is_refused_while_traced():
    with pytest.raises(ValueError, match="w: "):
        jax.jit(conv2d)(jnp.ones((1, 3, 8, 8)), jnp.ones((4, 2, 3, 3)))
    with pytest.raises(TypeError, match="dtype"):
        conv2d(jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3), jnp.float16))
