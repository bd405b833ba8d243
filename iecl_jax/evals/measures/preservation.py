"""Measures of how much an encoder preserves: rank, spread and agreement of a batch of features.

Every function takes float arrays with at least two rows, one row per example, and returns a float32
scalar. The result is finite even if all rows are equal or 0. All functions can be jitted.
"""

import jax
import jax.numpy as jnp

from iecl_jax.losses import entropy
from iecl_jax.losses.contrastive import l2_normalize


def rank_me(features: jax.Array, *, epsilon: float = 1e-7) -> jax.Array:
    """Returns RankMe of features [n, F]: exp of the entropy of the normalised singular values.

    It is the effective number of directions of the rows: from 1, if they are multiples of one
    vector, to min(n, F), if all singular values are equal. At the lower end epsilon adds about
    16 epsilon min(n, F). Rows are not centred, so their mean counts as a direction.

    Reference: Garrido et al. 2023, Eq. 1, with its epsilon.
    """
    # An SVD, not the cheaper eigenvalues of the Gram matrix: their rounding errors reach
    # sqrt(2^-24) of the largest singular value, so that rank one can come out as 1.3, and a large
    # mean hides the variation around it.
    values = jnp.linalg.svdvals(features.astype(jnp.float32))
    p = values / jnp.maximum(values.sum(), 1e-30) + epsilon
    return jnp.exp(-(p * jnp.log(p)).sum())


def alignment(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean squared distance of l2-normalised pairs of rows of x and y, both [n, d].

    It ranges from 0 (equal directions) to 4 (opposite directions); unrelated pairs give 2.

    Reference: Wang & Isola 2020, Eq. 3 with alpha = 2.
    """
    return jnp.square(l2_normalize(x) - l2_normalize(y)).sum(1).mean()


def uniformity(z: jax.Array, *, t: float = 2.0) -> jax.Array:
    """Returns log mean_{i < j} exp(-t |z_i - z_j|^2) of the l2-normalised rows of z [n, d].

    It ranges from -4t to 0 (all rows have one direction), up to rounding. Lower is more uniform:
    rows that are uniform on the sphere give about -2t + 2t^2/d for large d. It equals -d times the
    Renyi entropy of `losses.entropy`.

    Reference: Wang & Isola 2020, Eq. 5.
    """
    return -z.shape[1] * entropy.renyi2(l2_normalize(z), kernel_scale=t)


def feature_std(features: jax.Array) -> jax.Array:
    """Returns sqrt(F) times the mean, over channels, of the standard deviation over rows.

    The rows of features [n, F] are l2-normalised first. The standard deviation divides by n. The
    result ranges from 0 (all rows have one direction) to 1, and is about 1 for rows that are
    uniform on the sphere.

    Reference: Chen & He 2021 (SimSiam), §4.1, which compares the mean with 1/sqrt(F).
    """
    return l2_normalize(features).std(0).mean() * features.shape[1] ** 0.5
