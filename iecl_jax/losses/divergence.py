"""KL divergences of the transformed query's embeddings p from the anchor's q (Eq. 15 and 16).

Each is computed in float32 whatever the type of p and q. Values and gradients are finite even if
all rows of p or of q are equal.

`closed` and `eq16` fit a diagonal Gaussian to p and an isotropic Gaussian N(mu_q, s0^2 I) to q. The
fitted moments have divisor n, and 1e-10 is added to variances. Both are in nats per dimension.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.entropy import gaussian_diagonal

_FLOOR = 1e-10  # added to variances, which are 0 where embeddings collapse


def closed(p: Float[Array, "n d"], q: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Returns KL(N(mu_p, diag var_p) || N(mu_q, s0^2 I)) / d, which is at least 0.

    In closed form it is -H(p)/d + (|mu_p - mu_q|^2 + tr Sigma_p) / (2 d s0^2)
    + 1/2 log(2 pi s0^2), where H(p)/d is `entropy.gaussian_diagonal`.
    """
    p, q = p.astype(jnp.float32), q.astype(jnp.float32)
    s0 = q.var(0).mean() + _FLOOR
    spread = (jnp.square(p.mean(0) - q.mean(0)) + p.var(0) + _FLOOR).mean()
    return -gaussian_diagonal(p) + spread / (2 * s0) + 0.5 * jnp.log(2 * math.pi * s0)


def eq16(p: Float[Array, "n d"], q: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Returns Eq. 16 as printed: H(p)/d + |mu_p - mu_q|^2 / (2 d s0^2) + 1/2 log(2 pi s0^2).

    This is not a divergence and can have either sign, because the paper's entropy has the wrong
    sign and its trace term is missing: `closed` equals `eq16` - 2 H(p)/d + tr Sigma_p / (2 d s0^2).
    """
    p, q = p.astype(jnp.float32), q.astype(jnp.float32)
    s0 = q.var(0).mean() + _FLOOR
    drift = jnp.square(p.mean(0) - q.mean(0)).mean()
    return gaussian_diagonal(p) + drift / (2 * s0) + 0.5 * jnp.log(2 * math.pi * s0)


def softmax(p: Float[Array, "n d"], q: Float[Array, "n d"]) -> Float32[Array, ""]:
    """Returns the mean over rows of KL(softmax(p_i) || softmax(q_i)), at least 0, in nats.

    It equals PyTorch's `kl_div` with `reduction="batchmean"` on paired embeddings, and it is not
    divided by the dimension.
    """
    log_p = jax.nn.log_softmax(p.astype(jnp.float32))
    log_q = jax.nn.log_softmax(q.astype(jnp.float32))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
