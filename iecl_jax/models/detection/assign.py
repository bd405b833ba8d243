"""Which truth a box is compared with, and which boxes the losses are computed on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

BELOW, BETWEEN = -1, -2


def match(
    overlaps: Float32[Array, "G n"],
    present: Bool[Array, "G"],
    *,
    foreground: float,
    background: float,
    low_quality: bool,
) -> Int32[Array, "n"]:
    """Returns the truth of each box: its row, or BELOW (background) or BETWEEN (neither).

    Args:
      overlaps: the IoU of every truth with every box.
      present: which rows are truths; the others are padding and match nothing.
      foreground: a box whose largest IoU is at least this is matched with that truth.
      background: a box whose largest IoU is less than this is background.
      low_quality: whether the boxes that overlap some truth most, all of them if several do so
        equally, keep their best truth below `foreground` too. A truth that overlaps no box has no
        such boxes; in torchvision it would match all that do not overlap it.

    Reference: Ren et al. 2015, section 3.1.2; torchvision's `models.detection._utils.Matcher`.
    """
    # Computed once: computed twice, equal overlaps might differ in their last bit.
    overlaps = jax.lax.optimization_barrier(jnp.where(present[:, None], overlaps, -1))
    best, truth = overlaps.max(0), overlaps.argmax(0).astype(jnp.int32)
    matched = jnp.where(best >= background, BETWEEN, BELOW).astype(jnp.int32)
    keeps = best >= foreground
    if low_quality:
        most = overlaps.max(1, keepdims=True)
        keeps |= ((overlaps == most) & (most > 0)).any(0)
    return jnp.where(keeps, truth, matched)


class Sample(NamedTuple):
    """The boxes that the losses are computed on, a fixed number.

    Attributes:
      indices: int32 [size], which boxes; first the positive ones.
      positive: bool [size], which of them have a truth.
      counted: bool [size]; the others fill up and must count nothing.
    """

    indices: Int32[Array, "size"]
    positive: Bool[Array, "size"]
    counted: Bool[Array, "size"]


def sample(
    key: Key[Array, ""],
    positive: Bool[Array, "n"],
    negative: Bool[Array, "n"],
    *,
    size: int,
    share: float,
) -> Sample:
    """Draws `size` boxes, at most a `share` of them positive, and fills up with negative ones.

    If there are too few of both, all are taken and the rest is not counted.

    Reference: torchvision's `models.detection._utils.BalancedPositiveNegativeSampler`.
    """
    place = jnp.arange(size)
    drawn = jax.random.uniform(key, positive.shape)
    positives = _order(drawn, positive, size)
    num_positive = jnp.minimum(positive.sum(), int(size * share))
    num_counted = jnp.minimum(num_positive + negative.sum(), size)
    negatives = _order(drawn, negative, size)[jnp.maximum(place - num_positive, 0)]
    is_positive = place < num_positive
    indices = jnp.where(is_positive, positives, negatives)
    return Sample(indices, is_positive, place < num_counted)


def _order(drawn, candidates, size: int):
    """Returns int32 [size]: the candidates by falling draws, then others; repeated if n < size."""
    found = jax.lax.top_k(jnp.where(candidates, drawn, -1), min(size, len(drawn)))[1]
    return jnp.pad(found, (0, size - len(found)))
