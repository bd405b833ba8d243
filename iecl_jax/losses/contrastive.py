"""InfoNCE (Eq. 1 and 2)."""

import jax
import jax.numpy as jnp


def l2_normalize(x: jax.Array, epsilon: float = 1e-12) -> jax.Array:
    """Scales the last axis to unit length, in float32; a zero vector stays 0 (finite gradient)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), epsilon))


def info_nce(
    anchors: jax.Array,
    keys: jax.Array,
    positives: jax.Array,
    *,
    temperature: float,
    negatives: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Mean over anchors of -log softmax(cosine / temperature) at the positive key (Eq. 1).

    Args:
      anchors: [b, d] embeddings of any scale; cosine similarity is taken inside (Eq. 2).
      keys: [B, d], the keys of all devices, in global order.
      positives: int [b], each anchor's row in `keys`.
      temperature: tau > 0.
      negatives: [K, d] queue of earlier keys (MoCo). When given, an anchor is compared with its own
        key and the queue, not with the other keys of the batch.

    Returns:
      (loss, top1): float32 scalars, the mean natural-log loss and the share of anchors whose
      positive is the most similar.

    Reference: van den Oord et al. 2018; He et al. 2020 for the queue.
    """
    anchors, keys = l2_normalize(anchors), l2_normalize(keys)
    if negatives is None:
        logits, targets = anchors @ keys.T, positives
    else:
        positive = (anchors * keys[positives]).sum(-1, keepdims=True)
        logits = jnp.concatenate([positive, anchors @ l2_normalize(negatives).T], axis=1)
        targets = jnp.zeros_like(positives)
    log_probs = jax.nn.log_softmax(logits / temperature)
    loss = -jnp.take_along_axis(log_probs, targets[:, None], axis=1).mean()
    return loss, (logits.argmax(1) == targets).astype(jnp.float32).mean()
