"""Losses that keep dimensions apart: Barlow Twins and VICReg.

Each takes the embeddings of both views, of all devices and with rows paired, computes in float32
whatever their type, and returns terms unweighted: the method weighs them. Exchanging the views or
reordering the images changes nothing.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product


def _off_diagonal(matrix: Float32[Array, "d d"]) -> Float32[Array, ""]:
    """Sum of squares of the entries of a square matrix that are not on its diagonal."""
    return jnp.where(jnp.eye(len(matrix), dtype=bool), 0, jnp.square(matrix)).sum()


def barlow_twins(
    first: Float[Array, "n d"], second: Float[Array, "n d"], *, epsilon: float = 1e-5
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """sum_i (1 - C_ii)^2 and sum_{i != j} C_ij^2 of the views' cross-correlation C [d, d].

    C = z1^T z2 / n, where z is an embedding standardised per dimension over the batch, with the
    biased variance (divisor n) plus `epsilon` inside the root: batch norm without scale and bias.
    So a dimension of variance v has C_jj = v / (v + epsilon) with itself, and one that is constant
    0, which makes the first sum d at collapse, with finite gradients.

    Sums over entries, not means: both grow with d. The paper's loss is the first + lambda times the
    second; its released code multiplies that by a scale.

    Returns:
      (on_diagonal, off_diagonal), each at least 0.

    Reference: Zbontar et al. 2021, Eq. 1 and 2.
    """

    def standardise(z):
        z = z.astype(jnp.float32)
        centred = z - z.mean(0, keepdims=True)
        variance = jnp.square(centred).mean(0, keepdims=True)
        return centred * jax.lax.rsqrt(variance + epsilon)

    correlation = product(standardise(first).T, standardise(second)) / len(first)
    on_diagonal = jnp.square(1 - jnp.diagonal(correlation)).sum()
    return on_diagonal, _off_diagonal(correlation)


def vicreg(
    first: Float[Array, "n d"], second: Float[Array, "n d"], *, epsilon: float = 1e-4
) -> tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, ""]]:
    """Invariance, variance and covariance of two views, at least 2 rows each.

    invariance: mean over rows and dimensions of the squared difference. Eq. 5 sums over dimensions,
      d times this; the paper's pseudocode and released code take the mean.
    variance: sum over both views of mean_j max(0, 1 - sqrt(var_j + epsilon)), with the unbiased
      variance (divisor n - 1), as in Eq. 6. The released code halves it, so that its weight 25 is
      12.5 here. At collapse it is 2 (1 - sqrt(epsilon)), with finite gradients.
    covariance: sum over both views of sum_{i != j} Cov_ij^2 / d, with the unbiased covariance.

    Returns:
      (invariance, variance, covariance), each at least 0.

    Reference: Bardes et al. 2022, Eq. 1 to 6.
    """
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    n, d = first.shape

    def spread(z):
        centred = z - z.mean(0, keepdims=True)
        covariance = product(centred.T, centred) / (n - 1)
        deviation = jnp.sqrt(jnp.diagonal(covariance) + epsilon)
        return jnp.maximum(0, 1 - deviation).mean(), _off_diagonal(covariance) / d

    (variance, covariance), (variance2, covariance2) = spread(first), spread(second)
    invariance = jnp.square(first - second).mean()
    return invariance, variance + variance2, covariance + covariance2
