"""Principal components with whitening."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from iecl_jax.losses.product import product


def whitened(rows: Float32[Array, "n F"], components: int) -> Float32[Array, "n _"]:
    """Returns the first principal components of the rows, each divided by its standard deviation.

    A component whose variance is below 1e-6 of the largest is rounding noise, and becomes 0.

    Args:
      rows: what is centred and projected.
      components: how many are kept; F if that is less.

    Reference: Caron et al. 2018 (DeepCluster), section 3.3: PCA to 256 dimensions, whitening.
    """
    centered = rows - rows.mean(0, keepdims=True)
    variances, axes = jnp.linalg.eigh(product(centered.T, centered) / len(rows))
    variances, axes = variances[::-1][:components], axes[:, ::-1][:, :components]
    kept = variances > 1e-6 * variances[0]
    scale = jnp.where(kept, jnp.where(kept, variances, 1.0) ** -0.5, 0.0)
    return product(centered, axes * scale[None])
