"""Draws the random numbers of an operator."""

import jax

MOST = 22  # the numbers that a crop needs; no operator here needs more


def uniforms(key: jax.Array, count: int) -> jax.Array:
    """Returns `count` <= MOST independent values, uniform in [0, 1): float32 [count]."""
    # Always draws MOST values: one shape for all operators halves the time that XLA needs to
    # compile an augmentation.
    return jax.random.uniform(key, (MOST,))[:count]
