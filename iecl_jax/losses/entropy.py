"""Entropy estimators H(Z') of Eq. 17 for a batch of embeddings, in nats per dimension.

Each takes embeddings of any scale, computes in float32 whatever their type, and is differentiable
and invariant to the order of rows. The coding rate and the Renyi entropy are at least 0, which they
are at collapse; the other two estimate differential entropy or an upper bound of it and fall
towards -inf as the embeddings collapse, held finite by a floor.

"Bias, standard deviation" in a docstring are of a batch of 256 rows, by 2000 draws of it; N(0, I/d)
stands beside the unit sphere S^(d-1) because its rows have about unit length.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product

_FLOOR = 1e-10  # of variances and squared distances


def _centred(z: Float[Array, "n d"]) -> Float32[Array, "n d"]:
    """Rows minus their mean, float32: what follows rounds with the spread, not with the norm."""
    z = z.astype(jnp.float32)
    return z - z.mean(0, keepdims=True)


def coding_rate(z: Float[Array, "n d"], *, epsilon: float) -> Float32[Array, ""]:
    """1/2 logdet(I + d/(n eps^2) Zc' Zc) / d, Zc centred, on the smaller of the Gram matrices.

    Nats needed per dimension to code the rows up to distortion `epsilon` > 0; 0 at collapse. As n
    grows it tends to 1/2 logdet(I + d/eps^2 Sigma) / d of the rows' covariance Sigma, which is
    1/2 log(1 + 1/eps^2) for the unit sphere S^(d-1) and for N(0, I/d). Of n rows at most n - 1
    directions are seen, so it lies below: with d/n fixed, by the Marchenko-Pastur law.

    Bias, standard deviation, epsilon 0.5:
      N(0, I/128) -0.0858, 0.0030; S^127 -0.0849, 0.0011
      N(0, I/512) -0.3118, 0.0009; S^511 -0.3115, 0.00037

    Reference: Ma et al. 2007; Yu et al. 2020 (MCR^2), Eq. 1.
    """
    n, d = z.shape
    z = _centred(z)
    gram = product(z, z.T) if n < d else product(z.T, z)
    scaled = gram * (d / (n * epsilon**2)) + jnp.eye(min(n, d), dtype=jnp.float32)
    return jnp.log(jnp.diagonal(jnp.linalg.cholesky(scaled))).sum() / d


def gaussian_diagonal(z: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Mean over dimensions of 1/2 log(2 pi e var), var with divisor n: the entropy if the
    dimensions were independent Gaussians, and of the population an upper bound of the true one.

    Tends to 1/2 log(2 pi e / d) for S^(d-1) and for N(0, I/d). A batch lies about 1/n below, half
    of it from the divisor of the variance and half from the logarithm's curvature; for a Gaussian
    by exactly (log(n/2) - psi((n-1)/2)) / 2. At collapse it is 1/2 log(2 pi e 1e-10) = -10.1.

    Bias, standard deviation:
      N(0, I/128) -0.0038, 0.0039; S^127 -0.0039, 0.00034
      N(0, I/512) -0.0039, 0.0020; S^511 -0.0039, 0.00017
    """
    variance = z.astype(jnp.float32).var(0)
    return 0.5 * jnp.log(2 * math.pi * math.e * (variance + _FLOOR)).mean()


def _squared_distances(z: Float32[Array, "n d"]) -> Float32[Array, "n n"]:
    """Squared Euclidean distances of centred rows with the diagonal at infinity."""
    norms = (z * z).sum(1)
    distances = norms[:, None] + norms[None, :] - 2 * product(z, z.T)
    return jnp.where(jnp.eye(len(z), dtype=bool), jnp.inf, jnp.maximum(distances, 0))


def kozachenko_leonenko(z: Float[Array, "n d"], *, neighbors: int) -> Float32[Array, ""]:
    """k-nearest-neighbour estimate (psi(n) - psi(k) + log V_d)/d + mean log r_k, k = `neighbors`.

    r_k is the distance of a row to its k-th neighbour (at least 1e-5), V_d the volume of the unit
    ball. Consistent for a density on R^d, but a batch in high dimension has no near neighbours and
    comes out too high: compare values of equal n, d and k. Unit vectors have d - 1 dimensions, so
    there it falls with n as -log n / (d (d-1)) instead of converging; its bias below is from their
    entropy a dimension, log(area of S^(d-1)) / (d-1).

    Bias, standard deviation, k = 1:
      N(0, I/128) +0.2045, 0.0048; S^127 +0.2220, 0.0018
      N(0, I/512) +0.2716, 0.0025; S^511 +0.2830, 0.0008

    Raises:
      ValueError: `neighbors` is not in 1 ... n - 1.

    Reference: Kozachenko & Leonenko 1987; Kraskov et al. 2004, Eq. 20.
    """
    n, d = z.shape
    if not 0 < neighbors < n:
        raise ValueError(f"neighbors={neighbors} must be between 1 and {n - 1}, of {n} rows")
    z = _centred(z)
    kth = jax.lax.top_k(-_squared_distances(z), neighbors)[1][:, -1]
    squared = jnp.square(z - z[kth]).sum(1)  # anew: the Gram matrix rounds small distances off
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digammas = jax.scipy.special.digamma(jnp.float32(n)) - jax.scipy.special.digamma(
        jnp.float32(neighbors)
    )
    return (digammas + log_ball) / d + 0.5 * jnp.log(squared + _FLOOR).mean()


def renyi2(z: Float[Array, "n d"], *, kernel_scale: float) -> Float32[Array, ""]:
    """-log mean_{i != j} exp(-t |z_i - z_j|^2) / d with t = `kernel_scale` > 0; 0 at collapse.

    Up to a constant the quadratic Renyi entropy of a Gaussian kernel estimate; with t = 2 on the
    unit sphere it is minus the uniformity loss of Wang & Isola 2020, divided by d. Tends to
    logdet(I + 4 t Sigma) / (2 d) for N(mu, Sigma), and for S^(d-1) to
    (2 t - log 0F1(d/2; t^2)) / d, where 0F1 is the Bessel function I_(d/2-1) rescaled.

    Bias, standard deviation, t = 2 (where rows lie much farther apart than 1/sqrt(t) the nearest
    pairs alone count, and the bias is not small):
      N(0, I/128) +0.00001, 0.00023; S^127 0.00000, 0.000015
      N(0, I/512) 0.00000, 0.000030; S^511 0.000000, 0.0000020

    Raises:
      ValueError: there is one row alone.
    """
    n, d = z.shape
    if n < 2:
        raise ValueError("renyi2 compares rows, and there is 1: give it 2 at least")
    total = jax.nn.logsumexp(-kernel_scale * _squared_distances(_centred(z)))
    return (math.log(n * (n - 1)) - total) / d
