"""Whitening of embeddings within slices of the batch (W-MSE)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product


def whiten(z: Float[Array, "n d"], *, size: int, epsilon: float = 0.0) -> Float32[Array, "n d"]:
    """Centres and decorrelates each slice of `size` consecutive rows.

    With S = (1 - epsilon) Cov + epsilon I of a slice, Cov its unbiased covariance (divisor
    size - 1), and S = L L^T the Cholesky factorisation, each centred row x becomes L^-1 x. So a
    slice has mean zero and, with epsilon = 0, unbiased covariance I. Which images share a slice
    matters, their order in it does not: a method that wants random slices shuffles the rows of both
    views alike.

    Args:
      z: of all devices, of any scale; computed in float32 whatever the type.
      size: rows of a slice, more than d, since `size` centred rows span size - 1 dimensions.
      epsilon: in 0 ... 1. With 0, a slice in which a dimension is a linear function of the others
        (equal rows, say) has no factor: it comes out as NaN or as amplified rounding errors.

    Returns:
      The whitened rows, differentiable.

    Raises:
      ValueError: n is not a multiple of `size`, or `size` is not more than d.

    Reference: Ermolov et al. 2021.
    """
    n, d = z.shape
    if n % size:
        raise ValueError(f"{n} embeddings do not divide into slices of {size}: choose a divisor")
    if size <= d:
        raise ValueError(
            f"whitening {d} dimensions takes slices of more than {d} rows, not {size}: "
            "choose larger slices or a narrower projection"
        )

    def whiten_slice(rows):
        centred = rows - rows.mean(0, keepdims=True)
        scatter = product(centred.T, centred)
        shrunk = (1 - epsilon) / (size - 1) * scatter + epsilon * jnp.eye(d, dtype=jnp.float32)
        factor = jnp.linalg.cholesky(shrunk)
        return jax.scipy.linalg.solve_triangular(factor, centred.T, lower=True).T

    # A map, not a vmap: several batched LAPACK calls in one CPU program can deadlock (jaxlib 0.10).
    slices = jax.lax.map(whiten_slice, z.astype(jnp.float32).reshape(n // size, size, d))
    return slices.reshape(n, d)
