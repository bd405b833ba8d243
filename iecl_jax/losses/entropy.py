"""Estimators of the entropy H(Z') of Eq. 17 from a batch of embeddings, in nats per dimension.

Each takes embeddings of any scale, computes in float32 whatever their type, is differentiable, and
does not depend on the order of rows.

The coding rate and the Renyi entropy are at least 0, and they are 0 if the embeddings collapse to
one point. The other two estimate the differential entropy, or an upper bound. They would fall to
-inf at collapse, but a floor keeps them finite.

`docs/estimators.md` has the limits, biases and standard deviations of all four.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product

_FLOOR = 1e-10  # added to variances and squared distances, so that logarithms stay finite


def _centred(z: Float[Array, "n d"]) -> Float32[Array, "n d"]:
    """Returns the rows minus their mean, in float32.

    Rounding errors of what follows then grow with the spread of the rows, not with their norm.
    """
    z = z.astype(jnp.float32)
    return z - z.mean(0, keepdims=True)


def coding_rate(z: Float[Array, "n d"], *, epsilon: float) -> Float32[Array, ""]:
    """Returns the coding rate 1/2 logdet(I + d/(n eps^2) Zc' Zc) / d of the centred rows Zc.

    It is the number of nats per dimension that code the rows up to distortion `epsilon` > 0, and 0
    at collapse.

    Reference: Ma et al. 2007; Yu et al. 2020 (MCR^2), Eq. 1.
    """
    n, d = z.shape
    z = _centred(z)
    # Zc Zc' and Zc' Zc have the same eigenvalues other than 0, so the smaller one serves.
    gram = product(z, z.T) if n < d else product(z.T, z)
    scaled = gram * (d / (n * epsilon**2)) + jnp.eye(min(n, d), dtype=jnp.float32)
    return jnp.log(jnp.diagonal(jnp.linalg.cholesky(scaled))).sum() / d


def gaussian_diagonal(z: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Returns the mean over dimensions of 1/2 log(2 pi e var), where var has divisor n.

    It is the entropy of independent Gaussians with these variances. For a whole population it is an
    upper bound of the entropy. At collapse it is 1/2 log(2 pi e 1e-10) = -10.1.
    """
    variance = z.astype(jnp.float32).var(0)
    return 0.5 * jnp.log(2 * math.pi * math.e * (variance + _FLOOR)).mean()


def _squared_distances(z: Float32[Array, "n d"]) -> Float32[Array, "n n"]:
    """Returns the squared Euclidean distances of centred rows, with infinity on the diagonal."""
    norms = (z * z).sum(1)
    # Rounding can make the distance of equal rows negative, hence the maximum below.
    distances = norms[:, None] + norms[None, :] - 2 * product(z, z.T)
    return jnp.where(jnp.eye(len(z), dtype=bool), jnp.inf, jnp.maximum(distances, 0))


def kozachenko_leonenko(z: Float[Array, "n d"], *, neighbors: int) -> Float32[Array, ""]:
    """Returns the nearest-neighbour estimate (psi(n) - psi(k) + log V_d) / d + mean log r_k.

    Here k is `neighbors`, r_k is the distance of a row from its k-th neighbour (at least 1e-5), and
    V_d is the volume of the unit ball. Compare only values of equal n, d and k: a batch in high
    dimension has no near neighbours, so its estimate is too high.

    Raises:
      ValueError: `neighbors` is not in 1 ... n - 1.

    Reference: Kozachenko & Leonenko 1987; Kraskov et al. 2004, Eq. 20.
    """
    n, d = z.shape
    if not 0 < neighbors < n:
        raise ValueError(f"neighbors={neighbors} must be between 1 and {n - 1}, of {n} rows")
    z = _centred(z)
    kth = jax.lax.top_k(-_squared_distances(z), neighbors)[1][:, -1]
    # Computed from differences: distances from the Gram matrix lose the digits of near neighbours.
    squared = jnp.square(z - z[kth]).sum(1)
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digammas = jax.scipy.special.digamma(jnp.float32(n)) - jax.scipy.special.digamma(
        jnp.float32(neighbors)
    )
    return (digammas + log_ball) / d + 0.5 * jnp.log(squared + _FLOOR).mean()


def renyi2(z: Float[Array, "n d"], *, kernel_scale: float) -> Float32[Array, ""]:
    """Returns -log mean_{i != j} exp(-t |z_i - z_j|^2) / d, with t = `kernel_scale` > 0.

    It is the quadratic Renyi entropy of a Gaussian kernel estimate, up to a constant, and 0 at
    collapse. With t = 2 on the unit sphere it is minus the uniformity loss of Wang & Isola 2020,
    divided by d.

    Raises:
      ValueError: there is only one row.
    """
    n, d = z.shape
    if n < 2:
        raise ValueError("renyi2 compares rows, and there is 1: give it 2 at least")
    total = jax.nn.logsumexp(-kernel_scale * _squared_distances(_centred(z)))
    return (math.log(n * (n - 1)) - total) / d
