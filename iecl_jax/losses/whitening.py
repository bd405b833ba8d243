"""Whitens embeddings within slices of the batch (W-MSE)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product


def whiten(z: Float[Array, "n d"], *, size: int, epsilon: float = 0.0) -> Float32[Array, "n d"]:
    """Centres and decorrelates each slice of `size` consecutive rows.

    Let Cov be the unbiased covariance of a slice (divisor size - 1), S = (1 - epsilon) Cov +
    epsilon I, and S = L L^T the Cholesky factorisation. Each centred row x becomes L^-1 x. Then the
    slice has mean zero and, if epsilon = 0, unbiased covariance I.

    The result depends on which images share a slice, but not on their order in it. A method that
    wants random slices must shuffle the rows of both views in the same way.

    Args:
      z: the embeddings of all devices, of any scale; computed in float32 whatever the type.
      size: rows per slice. It must be more than d, since `size` centred rows span only size - 1
        dimensions.
      epsilon: from 0 to 1. With 0, a slice in which one dimension is a linear function of the
        others (because rows are equal, for example) has no Cholesky factor. Its rows are then NaN
        or amplified rounding errors.

    Returns:
      The whitened rows. They are differentiable.

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
