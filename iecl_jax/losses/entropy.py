"""Entropy estimators H(Z') of Eq. 17 for a batch of embeddings, in nats per dimension.

Each takes float [n, d] and returns a float32 scalar that is differentiable and invariant to the
order of rows. The coding rate is bounded below by 0; the others estimate differential entropy or a
lower bound of it and fall towards -inf (held finite by a floor) as the embeddings collapse.
"""

import math

import jax
import jax.numpy as jnp

_FLOOR = 1e-10  # of variances and squared distances


def coding_rate(z: jax.Array, *, epsilon: float) -> jax.Array:
    """1/2 logdet(I + d/(n eps^2) Zc' Zc) / d, Zc centred, on the smaller of the Gram matrices.

    Nats needed per dimension to code the rows up to distortion `epsilon` (0 at collapse).
    Reference: Ma et al. 2007; Yu et al. 2020 (MCR^2), Eq. 1.
    """
    n, d = z.shape
    z = z.astype(jnp.float32)
    z = z - z.mean(0, keepdims=True)
    gram = z @ z.T if n < d else z.T @ z
    scaled = gram * (d / (n * epsilon**2)) + jnp.eye(min(n, d))
    return jnp.log(jnp.diagonal(jnp.linalg.cholesky(scaled))).sum() / d


def gaussian_diagonal(z: jax.Array) -> jax.Array:
    """Mean over dimensions of 1/2 log(2 pi e var): the entropy if the dimensions were independent
    Gaussians, an upper bound of the true one. The variance is the biased one (divided by n)."""
    variance = z.astype(jnp.float32).var(0)
    return 0.5 * jnp.log(2 * math.pi * math.e * (variance + _FLOOR)).mean()


def _squared_distances(z: jax.Array) -> jax.Array:
    """[n, n] squared Euclidean distances with the diagonal at infinity."""
    z = z.astype(jnp.float32)
    norms = (z * z).sum(1)
    distances = norms[:, None] + norms[None, :] - 2 * z @ z.T
    return jnp.where(jnp.eye(len(z), dtype=bool), jnp.inf, jnp.maximum(distances, 0))


def kozachenko_leonenko(z: jax.Array, *, neighbors: int) -> jax.Array:
    """k-nearest-neighbour estimate (psi(n) - psi(k) + log V_d)/d + mean log r_k.

    r_k is the distance of a row to its k-th neighbour, V_d the volume of the unit ball. Consistent
    but biased upwards in high dimension at batch-sized n.
    Reference: Kozachenko & Leonenko 1987; Kraskov et al. 2004, Eq. 20.
    """
    n, d = z.shape
    z = z.astype(jnp.float32)
    kth = jax.lax.top_k(-_squared_distances(z), neighbors)[1][:, -1]
    squared = jnp.square(z - z[kth]).sum(1)  # anew: the Gram matrix rounds small distances off
    log_ball = 0.5 * d * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digammas = jax.scipy.special.digamma(jnp.float32(n)) - jax.scipy.special.digamma(
        jnp.float32(neighbors)
    )
    return (digammas + log_ball) / d + 0.5 * jnp.log(squared + _FLOOR).mean()


def renyi2(z: jax.Array, *, kernel_scale: float) -> jax.Array:
    """-log mean_{i != j} exp(-t |z_i - z_j|^2) / d with t = `kernel_scale`.

    Up to a constant the quadratic Renyi entropy of a Gaussian kernel estimate; with t = 2 on the
    unit sphere it is minus the uniformity loss of Wang & Isola 2020, divided by d.
    """
    n, d = z.shape
    total = jax.nn.logsumexp(-kernel_scale * _squared_distances(z))
    return (math.log(n * (n - 1)) - total) / d
