"""The contrastive losses: InfoNCE (Eq. 1 and 2) and NT-Xent (SimCLR)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from iecl_jax.losses.product import product


def l2_normalize(x: Float[Array, "*rows d"], epsilon: float = 1e-12) -> Float32[Array, "*rows d"]:
    """Scales each vector of the last axis to unit length, in float32.

    `epsilon` is the smallest length that is divided by, as in PyTorch's `functional.normalize`. So
    a zero vector stays 0, and its gradient is finite: the incoming one divided by `epsilon`.
    """
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), epsilon**2))


def similarities(
    anchors: Float[Array, "b d"],
    keys: Float[Array, "B d"],
    positives: Int[Array, "b"],
    negatives: Float[Array, "K d"] | None,
) -> tuple[Float32[Array, "b _"], Int[Array, "b"]]:
    """Returns the cosine of each anchor to its candidates, and the column of its positive.

    The candidates are all keys, or its own key and then the negatives; see `info_nce`.
    """
    anchors, keys = l2_normalize(anchors), l2_normalize(keys)
    if negatives is None:
        return product(anchors, keys.T), positives
    own = (anchors * keys[positives]).sum(-1, keepdims=True)
    found = jnp.concatenate([own, product(anchors, l2_normalize(negatives).T)], axis=1)
    return found, jnp.zeros_like(positives)


def info_nce(
    anchors: Float[Array, "b d"],
    keys: Float[Array, "B d"],
    positives: Int[Array, "b"],
    *,
    temperature: float,
    negatives: Float[Array, "K d"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Returns InfoNCE: the mean of -log softmax(cosine / temperature) at the positive key (Eq. 1).

    Args:
      anchors: embeddings of any scale; the cosine similarity normalises them (Eq. 2).
      keys: the embeddings of all devices, in global order, of any scale.
      positives: the row of `keys` that is each anchor's positive.
      temperature: tau > 0.
      negatives: a queue of earlier keys (MoCo). If it is given, an anchor is compared with its own
        key and the queue, and not with the other keys of the batch.

    Returns:
      (loss, top1): the mean loss in nats, and the share of anchors whose positive is the most
      similar key.

    Reference: van den Oord et al. 2018; He et al. 2020 for the queue.
    """
    logits, targets = similarities(anchors, keys, positives, negatives)
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
    """Returns NT-Xent: the mean of -log softmax(cosine / temperature) at the anchor's other view.

    The embeddings of both views are the anchors, 2b on this device. An anchor is compared with the
    2B - 1 other embeddings: its positive is the other view of its image, and its negatives are both
    views of the other images. The mean over devices is the mean over all 2B anchors, and so over
    both directions.

    Args:
      views: the embeddings of both views on this device, of any scale.
      all_views: the embeddings of both views on all devices, in global order.
      places: the places of this device's images among the B.
      temperature: tau > 0.

    Returns:
      (loss, top1): the mean loss in nats, and the share of anchors whose positive is the most
      similar of the other embeddings.

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
