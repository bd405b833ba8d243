"""KL divergence of the transformed query's embeddings p from the anchor's q (Eq. 15 and 16).

Each computes in float32 whatever the type of p and q, and is finite with finite gradients where the
rows of either are all equal too. `closed` and `eq16` fit a diagonal Gaussian to p and an isotropic
Gaussian N(mu_q, s0^2 I) to q, by moments with divisor n plus a floor of 1e-10 on variances, and are
in nats per dimension.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.entropy import gaussian_diagonal

_FLOOR = 1e-10


def closed(p: Float[Array, "n d"], q: Float[Array, "n d"]) -> Float32[Array, ""]:
    """KL(N(mu_p, diag var_p) || N(mu_q, s0^2 I)) / d
    = -H(p)/d + (|mu_p - mu_q|^2 + tr Sigma_p) / (2 d s0^2) + 1/2 log(2 pi s0^2), which is >= 0."""
    p, q = p.astype(jnp.float32), q.astype(jnp.float32)
    s0 = q.var(0).mean() + _FLOOR
    spread = (jnp.square(p.mean(0) - q.mean(0)) + p.var(0) + _FLOOR).mean()
    return -gaussian_diagonal(p) + spread / (2 * s0) + 0.5 * jnp.log(2 * math.pi * s0)


def eq16(p: Float[Array, "n d"], q: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Eq. 16 as printed: +H(p)/d + |mu_p - mu_q|^2 / (2 d s0^2) + 1/2 log(2 pi s0^2).

    Not a divergence, of either sign: the entropy has the wrong sign and the trace term is missing,
    so `closed` is this - 2 H(p)/d + tr Sigma_p / (2 d s0^2).
    """
    p, q = p.astype(jnp.float32), q.astype(jnp.float32)
    s0 = q.var(0).mean() + _FLOOR
    drift = jnp.square(p.mean(0) - q.mean(0)).mean()
    return gaussian_diagonal(p) + drift / (2 * s0) + 0.5 * jnp.log(2 * math.pi * s0)


def softmax(p: Float[Array, "n d"], q: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Mean over rows of KL(softmax(p_i) || softmax(q_i)) >= 0, in nats: PyTorch's `kl_div` with
    `batchmean` on paired embeddings, not per dimension."""
    log_p = jax.nn.log_softmax(p.astype(jnp.float32))
    log_q = jax.nn.log_softmax(q.astype(jnp.float32))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
