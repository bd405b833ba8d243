"""InfoNCE (Eq. 1 and 2) and the NT-Xent of SimCLR."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from iecl_jax.losses.product import product


def l2_normalize(x: Float[Array, "*rows d"], epsilon: float = 1e-12) -> Float32[Array, "*rows d"]:
    """Scales the last axis to unit length, in float32; a zero vector stays 0 (finite gradient)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), epsilon))


def info_nce(
    anchors: Float[Array, "b d"],
    keys: Float[Array, "B d"],
    positives: Int[Array, "b"],
    *,
    temperature: float,
    negatives: Float[Array, "K d"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Mean over anchors of -log softmax(cosine / temperature) at the positive key (Eq. 1).

    Args:
      anchors: embeddings of any scale; cosine similarity is taken inside (Eq. 2).
      keys: those of all devices, in global order.
      positives: each anchor's row in `keys`.
      temperature: tau > 0.
      negatives: queue of earlier keys (MoCo). When given, an anchor is compared with its own
        key and the queue, not with the other keys of the batch.

    Returns:
      (loss, top1): the mean natural-log loss and the share of anchors whose
      positive is the most similar.

    Reference: van den Oord et al. 2018; He et al. 2020 for the queue.
    """
    anchors, keys = l2_normalize(anchors), l2_normalize(keys)
    if negatives is None:
        logits, targets = product(anchors, keys.T), positives
    else:
        positive = (anchors * keys[positives]).sum(-1, keepdims=True)
        logits = jnp.concatenate([positive, product(anchors, l2_normalize(negatives).T)], axis=1)
        targets = jnp.zeros_like(positives)
    log_probs = jax.nn.log_softmax(logits / temperature)
    loss = -jnp.take_along_axis(log_probs, targets[:, None], axis=1).mean()
    return loss, (logits.argmax(1) == targets).astype(jnp.float32).mean()


def nt_xent(
    views: Float[Array, "2 b d"],
    all_views: Float[Array, "2 B d"],
    places: Int[Array, "b"],
    *,
    temperature: float,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Mean over the 2b anchors of -log softmax(cosine / temperature) at the other view (NT-Xent).

    An anchor is compared with the 2B - 1 other embeddings of both views, so not with itself: its
    positive is the other view of its image, its negatives both views of the other images. The mean
    over devices is the mean over all 2B anchors, that is over both directions.

    Args:
      views: this device's embeddings of both views, of any scale.
      all_views: those of all devices, in global order.
      places: this device's rows among the B.
      temperature: tau > 0.

    Returns:
      (loss, top1): the mean natural-log loss and the share of anchors whose
      positive is the most similar of the others.

    Reference: Chen et al. 2020 (SimCLR), Eq. 1.
    """
    _, batch, d = all_views.shape
    anchors = l2_normalize(views).reshape(-1, d)
    others = l2_normalize(all_views).reshape(-1, d)
    own = jnp.concatenate([places, places + batch])
    positives = jnp.concatenate([places + batch, places])
    cosines = product(anchors, others.T)
    itself = jnp.arange(2 * batch)[None, :] == own[:, None]
    logits = jnp.where(itself, -jnp.inf, cosines / temperature)
    log_probs = jax.nn.log_softmax(logits)
    loss = -jnp.take_along_axis(log_probs, positives[:, None], axis=1).mean()
    return loss, (logits.argmax(1) == positives).astype(jnp.float32).mean()
