"""SoftNCE, the smoothed InfoNCE of Light-MoCo: the nearest negatives are positives, a little."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from iecl_jax.losses import contrastive
from iecl_jax.losses.product import product

# How the mass is shared among the k nearest negatives, the nearest first. The authors' numbers:
#   uniform    1, and 4 with k=1 and a mass of 0.5;
#   halves     2: half to the first part of the ranks, a quarter to each of the others;
#   geometric  3 with k=11 and a mass of 0.4: each rank half of the one before, the last two equal;
#   all        5: to all negatives, near and far (label smoothing), whatever k is;
#   thirds     6 with k=20: a third to each part of the ranks.
STRATEGIES = ("uniform", "halves", "geometric", "all", "thirds")
BY_PARTS = {"halves": (1 / 2, 1 / 4, 1 / 4), "thirds": (1 / 3, 1 / 3, 1 / 3)}
# {k: the ranks at which these parts end}
PARTS = {5: (1, 3, 5), 10: (1, 4, 10), 20: (2, 8, 20), 30: (3, 12, 30)}


def shares(strategy: str, k: int) -> list[float]:
    """Returns the share of the mass for each of the k nearest negatives; [] = all, equally.

    The shares sum to 1. `halves` and `thirds` are defined for the k of PARTS.
    """
    if strategy == "all":
        return []
    if strategy == "uniform":
        return [1 / k] * k
    if strategy == "geometric":
        return [0.5 ** min(rank, k - 1) for rank in range(1, k + 1)]
    found: list[float] = []
    for end, share in zip(PARTS[k], BY_PARTS[strategy], strict=True):
        width = end - len(found)
        found += [share / width] * width
    return found


def soft_nce(
    anchors: Float[Array, "b d"],
    keys: Float[Array, "B d"],
    positives: Int[Array, "b"],
    *,
    temperature: float,
    mass: float | Float32[Array, ""],
    shares: Sequence[float],
    negatives: Float[Array, "K d"] | None = None,
) -> tuple[Float32[Array, ""], Float32[Array, ""], Float32[Array, ""]]:
    """Returns SoftNCE: the mean cross-entropy of softmax(cosine / temperature) with a soft target.

    The target has 1 - mass at the positive, and the mass at the most similar negatives. Which
    negatives these are is a constant to the gradient, and so is the target.

    Args:
      anchors, keys, positives, temperature, negatives: see `contrastive.info_nce`.
      mass: s, from 0 (InfoNCE) to 1.
      shares: see `shares`; no more than there are negatives.

    Returns:
      (loss, top1, positive_share): the loss in nats, which is at least the entropy of the target;
      the share of anchors whose positive is the most similar key; and the mean probability of the
      positive, which is 1 - mass where the loss is least.

    Reference: Lin et al. 2023 (Light-MoCo).
    """
    logits, targets = contrastive.similarities(anchors, keys, positives, negatives)
    log_probs = jax.nn.log_softmax(logits / temperature)
    own = jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
    if shares:
        is_own = jnp.arange(logits.shape[1])[None, :] == targets[:, None]
        nearest, _ = jax.lax.top_k(jnp.where(is_own, -jnp.inf, log_probs), len(shares))
        others = product(nearest, jnp.asarray(shares, jnp.float32))
    else:
        others = (log_probs.sum(1) - own) / (logits.shape[1] - 1)
    loss = -((1 - mass) * own + mass * others).mean()
    top1 = (logits.argmax(1) == targets).astype(jnp.float32).mean()
    return loss, top1, jnp.exp(own).mean()
