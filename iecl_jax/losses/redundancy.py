"""The redundancy-reduction losses: Barlow Twins, VICReg and the feature loss of All4One.

Each takes the embeddings of the two views from all devices, where row i of both is the same image.
It computes in float32 whatever their type and returns its terms unweighted; the method weights
them. The values do not change if the views are exchanged or the images reordered.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.contrastive import l2_normalize
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


def feature_correlation(
    *pairs: tuple[Float[Array, "n d"], Float[Array, "n d"]],
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Returns the two terms of All4One's feature loss, from pairs of embeddings.

    Each pair has a matrix C [d, d] of the cosines between the features of its first and of its
    second embeddings. A feature is a column of n entries, scaled to unit length and not centred.

    The loss of All4One is 5 times the sum of both terms.

    Returns:
      (on_diagonal, off_diagonal): the root of the mean of (1 - C_ii)^2, and that of the mean of
      C_ij^2 where i and j differ; the means are also over the pairs. Each is from 0 to 2, and
      off_diagonal to 1. A feature that is 0 everywhere has the cosine 0. Gradients are finite.

    Raises:
      ValueError: the embeddings have a single feature.

    Reference: Estepa et al. 2023 (All4One), as in their code.
    """
    d = pairs[0][0].shape[1]
    if d < 2:
        raise ValueError("feature_correlation compares features, and there is 1: give it two.")
    on = off = jnp.float32(0)
    for first, second in pairs:
        cosines = product(l2_normalize(first.T), l2_normalize(second.T).T)
        on = on + jnp.square(1 - jnp.diagonal(cosines)).mean() / len(pairs)
        off = off + _off_diagonal(cosines) / (d * (d - 1)) / len(pairs)
    # The root has no finite slope at 0.
    return jnp.sqrt(jnp.maximum(on, 1e-12)), jnp.sqrt(jnp.maximum(off, 1e-12))
