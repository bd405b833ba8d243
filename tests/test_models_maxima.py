"""ReLU and max-pooling against a loop, and their derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.models import maxima

pytestmark = pytest.mark.quick


def pooled(x, cotangent):
    """float64 [B, H, W, C] -> (maxima, gradient): the first maximum of a window gets it all."""
    batch, height, width, channels = x.shape
    y = np.empty((batch, (height + 1) // 2, (width + 1) // 2, channels))
    gradient = np.zeros_like(x)
    for b, h, w, c in np.ndindex(y.shape):
        rows, columns = (range(max(2 * i - 1, 0), 2 * i + 2) for i in (h, w))
        inside = [(i, j) for i, j in itertools.product(rows, columns) if i < height and j < width]
        first = max(inside, key=lambda place: x[b, *place, c])
        y[b, h, w, c] = x[b, *first, c]
        gradient[b, *first, c] += cotangent[b, h, w, c]
    return y, gradient


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 5, 7, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_max_pool(shape, dtype):
    rng = np.random.default_rng(sum(shape))
    x = np.maximum(rng.integers(-9, 9, shape), 0) / 4  # with ties, exact in bfloat16
    y, pullback = jax.vjp(jax.jit(maxima.max_pool), jnp.asarray(x, dtype))
    cotangent = rng.integers(-9, 9, y.shape) / 4
    expected, gradient = pooled(x, cotangent)
    np.testing.assert_array_equal(np.float64(y), expected)
    np.testing.assert_array_equal(np.float64(maxima.max_pool(jnp.asarray(x, dtype))), expected)
    got = pullback(jnp.asarray(cotangent, dtype))[0]
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.float64(got), gradient)
    tangent = rng.normal(size=shape)
    forward = jax.jvp(maxima.max_pool, *[(jnp.asarray(a, jnp.float32),) for a in (x, tangent)])[1]
    np.testing.assert_allclose((forward * cotangent).sum(), (gradient * tangent).sum(), rtol=1e-4)


def test_relu():
    x = jnp.asarray([-1.5, 0.0, 2.0, -0.0, 0.5])
    y, pullback = jax.vjp(maxima.relu, x)
    np.testing.assert_array_equal(y, [0, 0, 2, 0, 0.5])
    np.testing.assert_array_equal(pullback(jnp.arange(1.0, 6))[0], [0, 0, 3, 0, 5])
    half = x.astype(jnp.bfloat16)
    assert jax.grad(lambda x: maxima.relu(x).sum())(half).dtype == jnp.bfloat16
