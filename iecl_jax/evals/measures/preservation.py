"""What an encoder keeps of its inputs, measured on a batch of features: rank, spread, agreement.

Every measure takes float arrays with an example a row, at least two of them, returns a float32
scalar, finite also where all rows are equal or 0, and can be jitted.
"""

import jax
import jax.numpy as jnp

from iecl_jax.losses import entropy
from iecl_jax.losses.contrastive import l2_normalize


def rank_me(features: jax.Array, *, epsilon: float = 1e-7) -> jax.Array:
    """RankMe: exp of the entropy of the singular values, scaled to sum 1, of features [n, F].

    The number of directions that the rows use, from 1 (they are multiples of one vector) to
    min(n, F), where all singular values are equal; at the lower end epsilon adds about
    16 epsilon min(n, F). Rows are not centred, so their mean counts as a direction.

    The singular values come from an SVD of the features and not, cheaper, from the eigenvalues of
    their Gram matrix: rounding fills those up to sqrt(2^-24) of the largest, so that rank one can
    come out as 1.3, and a strong mean hides what varies around it.

    Reference: Garrido et al. 2023, Eq. 1, with its epsilon.
    """
    values = jnp.linalg.svdvals(features.astype(jnp.float32))
    p = values / jnp.maximum(values.sum(), 1e-30) + epsilon
    return jnp.exp(-(p * jnp.log(p)).sum())


def alignment(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared distance of the l2-normalised rows of x and y, both [n, d], pair by pair.

    From 0 (each pair is one direction) to 4 (opposite directions); 2 for unrelated pairs.
    Reference: Wang & Isola 2020, Eq. 3 with alpha = 2.
    """
    return jnp.square(l2_normalize(x) - l2_normalize(y)).sum(1).mean()


def uniformity(z: jax.Array, *, t: float = 2.0) -> jax.Array:
    """log mean_{i < j} exp(-t |z_i - z_j|^2) of the l2-normalised rows of z [n, d].

    From -4t to 0 (all rows are one direction), within rounding; the lower, the more uniform: about
    -2t + 2t^2/d, for large d, on rows that are uniform on the sphere.
    Reference: Wang & Isola 2020, Eq. 5; minus d times the Renyi entropy of `losses.entropy`.
    """
    return -z.shape[1] * entropy.renyi2(l2_normalize(z), kernel_scale=t)


def feature_std(features: jax.Array) -> jax.Array:
    """sqrt(F) times the mean over channels of the deviation over rows, features [n, F] normalised.

    Rows are l2-normalised, the deviation is the biased one. From 0 (all rows are one direction) to
    1; about 1 for rows that are uniform on the sphere.
    Reference: Chen & He 2021 (SimSiam), §4.1, there compared with 1/sqrt(F).
    """
    return l2_normalize(features).std(0).mean() * features.shape[1] ** 0.5
