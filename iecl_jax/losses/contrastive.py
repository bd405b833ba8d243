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
    views: Float[Array, "V b d"],
    all_views: Float[Array, "V B d"],
    places: Int[Array, "b"],
    *,
    temperature: float,
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
    """Returns NT-Xent: the mean of -log(share of the positives), shares exp(cosine / temperature).

    The embeddings of all V views are the anchors, V b on this device. An anchor is compared with
    the V B - 1 other embeddings: its positives are the other views of its image, and its negatives
    are all views of the other images. The mean over devices is the mean over all V B anchors.

    Args:
      views: the embeddings of the views on this device, of any scale; V is 2 or more.
      all_views: the embeddings of the views on all devices, in global order.
      places: the places of this device's images among the B.
      temperature: tau > 0.

    Returns:
      (loss, top1): the mean loss in nats, and the share of anchors whose most similar embedding,
      among the others, is a positive.

    Reference: Chen et al. 2020 (SimCLR), Eq. 1; solo-learn for more than two views, where the
    shares of the positives are added up inside of the logarithm.
    """
    count, batch, d = all_views.shape
    anchors = l2_normalize(views).reshape(-1, d)
    others = l2_normalize(all_views).reshape(-1, d)
    own = jnp.concatenate([places + view * batch for view in range(count)])
    # Column i has the view that is i places further.
    further = [jnp.roll(own, -step * len(places)) for step in range(1, count)]
    positives = jnp.stack(further, axis=1)
    cosines = product(anchors, others.T)
    itself = jnp.arange(count * batch)[None, :] == own[:, None]
    logits = jnp.where(itself, -jnp.inf, cosines / temperature)
    log_probs = jax.nn.log_softmax(logits)
    shares = jnp.take_along_axis(log_probs, positives, axis=1)
    loss = -jax.nn.logsumexp(shares, axis=1).mean()
    hit = (logits.argmax(1)[:, None] == positives).any(1)
    return loss, hit.astype(jnp.float32).mean()
