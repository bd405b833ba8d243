"""The losses of a detector, as sums over the rows that count.

The caller divides by the number of rows of all devices, so that the loss does not depend on how
the rows lie on the devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int


def smooth_l1(
    predictions: Float[Array, "*rows 4"],
    targets: Float[Array, "*rows 4"],
    counted: Bool[Array, "*rows"],
    *,
    beta: float,
) -> Float32[Array, ""]:
    """Returns the sum of the smooth L1 distance over the counted rows.

    With d = |prediction - target|, it is d^2 / (2 beta) where d < beta, and d - beta / 2 elsewhere.

    Args:
      predictions, targets: deltas of boxes; targets get no gradient.
      counted: which rows count. The targets of the others must be finite.
      beta: above 0.

    Reference: Girshick 2015 (Fast R-CNN), Eq. 3, where beta is 1.
    """
    targets = jax.lax.stop_gradient(targets).astype(jnp.float32)
    distance = jnp.abs(predictions.astype(jnp.float32) - targets)
    value = jnp.where(distance < beta, distance**2 / (2 * beta), distance - beta / 2)
    return jnp.where(counted[..., None], value, 0).sum()


def binary_cross_entropy(
    logits: Float[Array, "*rows"], positive: Bool[Array, "*rows"], counted: Bool[Array, "*rows"]
) -> Float32[Array, ""]:
    """Returns the sum over the counted rows of -log sigmoid(+-logit), in nats."""
    logits = logits.astype(jnp.float32)
    value = jax.nn.softplus(jnp.where(positive, -logits, logits))
    return jnp.where(counted, value, 0).sum()


def cross_entropy(
    logits: Float[Array, "*rows C"], labels: Int[Array, "*rows"], counted: Bool[Array, "*rows"]
) -> Float32[Array, ""]:
    """Returns the sum over the counted rows of -log softmax(logits) at the label, in nats."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.float32)
    return jnp.where(counted, -(log_probs * own).sum(-1), 0).sum()
