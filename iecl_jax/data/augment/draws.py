"""The random numbers of an operator."""

import jax

MOST = 22  # drawn by a crop


def uniforms(key: jax.Array, count: int) -> jax.Array:
    """`count` <= MOST independent values, uniform in [0, 1): float32 [count].

    MOST are drawn whatever the count: one shape for all operators halves the time that XLA needs to
    compile an augmentation.
    """
    return jax.random.uniform(key, (MOST,))[:count]
