"""What the tests of the losses share: float32 values and gradients, float64 finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def numeric_gradient(fn, x, step=1e-5):
    """Central differences of a float64 function, entry by entry."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = []
        for sign in (1, -1):
            y = x.copy()
            y[i] += sign * step
            moved.append(fn(y))
        gradient[i] = (moved[0] - moved[1]) / (2 * step)
    return gradient


@functools.cache
def _jitted(fn, num_arrays, options):
    fn = functools.partial(fn, **dict(options))
    return jax.jit(jax.value_and_grad(fn, tuple(range(num_arrays))))


def value_and_grad(fn, *arrays, **options):
    """Value and gradients with respect to all arrays, as NumPy."""
    compiled = _jitted(fn, len(arrays), tuple(options.items()))
    value, gradients = compiled(*(jnp.asarray(a, jnp.float32) for a in arrays))
    return float(value), [np.asarray(g) for g in gradients]
