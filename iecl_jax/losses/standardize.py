"""Standardisation to mean 0 and variance 1, exact also where the mean is large."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def standardize(
    x: Float[Array, "..."], axis: int = -1, *, epsilon: float = 1e-5
) -> Float32[Array, "..."]:
    """Returns (x - mean) / sqrt(var + epsilon) along an axis, in float32.

    The variance is biased (divisor n). It is the mean of (x - mean)^2: E[x^2] - E[x]^2, as in
    `jax.nn.standardize`, loses all digits where the mean is large beside the deviation.
    """
    x = x.astype(jnp.float32)
    centred = x - x.mean(axis, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis, keepdims=True) + epsilon)
