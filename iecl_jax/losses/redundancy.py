"""The redundancy-reduction losses: Barlow Twins and VICReg.

Each takes the embeddings of the two views from all devices, where row i of both is the same image.
It computes in float32 whatever their type and returns its terms unweighted; the method weights
them. The values do not change if the views are exchanged or the images reordered.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product
from iecl_jax.losses.standardize import standardize


def _off_diagonal(matrix: Float32[Array, "d d"]) -> Float32[Array, ""]:
    """Returns the sum of squares of the entries off the diagonal of a square matrix."""
    return jnp.where(jnp.eye(len(matrix), dtype=bool), 0, jnp.square(matrix)).sum()


def _require_rows(count: int, name: str) -> None:
    """Raises ValueError for a single row, which has no variance."""
    if count < 2:
        raise ValueError(f"{name} compares the rows of a batch, and there is {count}: give it two.")


def barlow_twins(
    first: Float[Array, "n d"], second: Float[Array, "n d"], *, epsilon: float = 1e-5
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Returns the two terms of Barlow Twins, from the cross-correlation C [d, d] of the views.

    C = z1^T z2 / n, where z1 and z2 are the views' embeddings, standardised per dimension over the
    batch. The variance is biased (divisor n), and `epsilon` is added to it inside the root, as in
    batch norm without scale and bias. So two equal views of variance v have C_jj = v / (v +
    epsilon). A constant dimension has C_jj = 0, hence the first term is d at collapse, with finite
    gradients.

    The paper's loss is the first term plus lambda times the second. Its released code multiplies
    that by a scale.

    Returns:
      (on_diagonal, off_diagonal): sum_i (1 - C_ii)^2 and sum_{i != j} C_ij^2, each at least 0. They
      are sums over entries, not means, so both grow with d.

    Raises:
      ValueError: there is only one row.

    Reference: Zbontar et al. 2021, Eq. 1 and 2.
    """
    _require_rows(len(first), "barlow_twins")
    first, second = (standardize(z, 0, epsilon=epsilon) for z in (first, second))
    correlation = product(first.T, second) / len(first)
    on_diagonal = jnp.square(1 - jnp.diagonal(correlation)).sum()
    return on_diagonal, _off_diagonal(correlation)


def vicreg(
    first: Float[Array, "n d"], second: Float[Array, "n d"], *, epsilon: float = 1e-4
) -> tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, ""]]:
    """Returns the three terms of VICReg, from two views of at least 2 rows.

    Returns:
      (invariance, variance, covariance), each at least 0:
        invariance: the mean over rows and dimensions of the squared difference of the views, as in
          the paper's pseudocode and released code. Eq. 5 sums over dimensions, which is d times
          this.
        variance: the sum over both views of mean_j max(0, 1 - sqrt(var_j + epsilon)), with the
          unbiased variance (divisor n - 1), as in Eq. 6. The released code halves this term, so its
          weight of 25 is 12.5 here. At collapse it is 2 (1 - sqrt(epsilon)), with finite gradients.
        covariance: the sum over both views of sum_{i != j} Cov_ij^2 / d, with the unbiased
          covariance.

    Raises:
      ValueError: there is only one row.

    Reference: Bardes et al. 2022, Eq. 1 to 6.
    """
    first, second = first.astype(jnp.float32), second.astype(jnp.float32)
    n, d = first.shape
    _require_rows(n, "vicreg")

    def spread(z):
        centred = z - z.mean(0, keepdims=True)
        covariance = product(centred.T, centred) / (n - 1)
        deviation = jnp.sqrt(jnp.diagonal(covariance) + epsilon)
        return jnp.maximum(0, 1 - deviation).mean(), _off_diagonal(covariance) / d

    (variance, covariance), (variance2, covariance2) = spread(first), spread(second)
    invariance = jnp.square(first - second).mean()
    return invariance, variance + variance2, covariance + covariance2
