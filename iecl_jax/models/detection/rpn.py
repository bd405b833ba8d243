"""The region proposal network: which anchors have objects, and where exactly (Ren et al. 2015).

The rules are those of torchvision's `models.detection.rpn`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Key

from iecl_jax.config.rules import BOXES, INSIDE_SHARE, SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.losses import detection as losses
from iecl_jax.models import collectives, initializers
from iecl_jax.models.detection import assign, boxes
from iecl_jax.models.detection.nms import nms

_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of the deltas
_SMALLEST = 1e-3  # pixels; smaller proposals are dropped
BETA = 1 / 9  # of smooth L1


class Settings(Section):
    """The settings of the region proposal network; the defaults are torchvision's."""

    before_nms_train = key(2000, BOXES, "training: proposals per level before suppression")
    after_nms_train = key(2000, BOXES, "training: proposals per image")
    before_nms_test = key(1000, BOXES, "test: proposals per level before suppression")
    after_nms_test = key(1000, BOXES, "test: proposals per image")
    nms_threshold = key(0.7, INSIDE_SHARE, "IoU above which a proposal is suppressed")
    foreground = key(0.7, INSIDE_SHARE, "IoU from which an anchor is an object")
    background = key(0.3, INSIDE_SHARE, "IoU below which an anchor is background")
    sampled = key(256, BOXES, "anchors per image in the loss")
    positive_share = key(0.5, SHARE, "largest share of objects among them")


class RPNHead(nn.Module):
    """Maps every level [B, h, w, C] to logits [B, n] and deltas [B, n, 4], float32.

    n = h * w * `num_anchors`, in the order of `anchors.grid_anchors`; all levels share the layers.
    """

    num_anchors: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, pyramid: tuple[Float[Array, "B _ _ C"], ...]
    ) -> tuple[list[Float32[Array, "B _"]], list[Float32[Array, "B _ 4"]]]:
        def layer(features: int, size: int, name: str):
            init = initializers.normal(0.01)
            window = (size, size)
            return nn.Conv(
                features, window, padding=size // 2, kernel_init=init, dtype=self.dtype, name=name
            )

        conv = layer(pyramid[0].shape[-1], 3, "conv")
        cls_logits = layer(self.num_anchors, 1, "cls_logits")
        bbox_pred = layer(4 * self.num_anchors, 1, "bbox_pred")
        logits, deltas = [], []
        for level in pyramid:
            x = nn.relu(conv(level))
            logits.append(cls_logits(x).astype(jnp.float32).reshape(len(x), -1))
            deltas.append(bbox_pred(x).astype(jnp.float32).reshape(len(x), -1, 4))
        return logits, deltas


def propose(
    logits: list[Float32[Array, "_"]],
    deltas: list[Float32[Array, "_ 4"]],
    anchors: list[np.ndarray],
    image_size: Float32[Array, "2"],
    *,
    before_nms: int,
    after_nms: int,
    threshold: float,
) -> tuple[Float32[Array, "n 4"], Float32[Array, "n"], Bool[Array, "n"]]:
    """Returns the proposals of one image, n = `after_nms` of them, without gradient.

    Args:
      logits, deltas, anchors: of each level.
      image_size: height and width of the image on the canvas, at which proposals are cut off.
      before_nms: number of the best of each level that take part in its suppression.
      after_nms: number of proposals, over all levels.
      threshold: see `nms`.

    Returns:
      (boxes, logits, valid) by falling logit. Those that are not valid fill up.
    """
    found, values = [], []
    for logit, delta, anchor in zip(logits, deltas, anchors, strict=True):
        logit, delta = jax.lax.stop_gradient((logit, delta))
        best, index = jax.lax.top_k(logit, min(before_nms, len(logit)))
        box = boxes.decode(delta[index], jnp.asarray(anchor)[index], _WEIGHTS)
        box = boxes.clip(box, image_size)
        kept = nms(box, best, boxes.reaches(box, _SMALLEST), threshold)
        found.append(box)
        values.append(jnp.where(kept, best, -jnp.inf))
    all_boxes, all_values = jnp.concatenate(found), jnp.concatenate(values)
    best, index = jax.lax.top_k(all_values, min(after_nms, len(all_values)))
    missing = after_nms - len(best)
    best = jnp.pad(best, (0, missing), constant_values=-jnp.inf)
    return jnp.pad(all_boxes[index], ((0, missing), (0, 0))), best, best > -jnp.inf


def loss(
    logits: Float32[Array, "B n"],
    deltas: Float32[Array, "B n 4"],
    anchors: Float32[Array, "n 4"],
    truths: Float32[Array, "B G 4"],
    present: Bool[Array, "B G"],
    keys: Key[Array, "B"],
    *,
    settings: ml_collections.ConfigDict | ml_collections.FrozenConfigDict,
    axis_name: str | None,
) -> dict[str, Float32[Array, ""]]:
    """Returns {"objectness", "rpn_box"}: cross-entropy in nats, and smooth L1 of the deltas.

    Both are sums over the anchors drawn, divided by their number on all devices, so that the mean
    over the devices is the loss.

    Args:
      logits, deltas, anchors: of all levels, one after another.
      truths, present: the boxes of the images, and which rows are no padding.
      keys: a key for each image, for the draw.
      settings: of `Settings`.
      axis_name: the axis of the devices.
    """

    def draw(key, truths, present):
        matched = assign.match(
            boxes.iou(truths, anchors),
            present,
            foreground=settings.foreground,
            background=settings.background,
            low_quality=True,
        )
        drawn = assign.sample(
            key,
            matched >= 0,
            matched == assign.BELOW,
            size=settings.sampled,
            share=settings.positive_share,
        )
        own = truths[jnp.maximum(matched[drawn.indices], 0)]
        return drawn, boxes.encode(own, anchors[drawn.indices], _WEIGHTS)

    drawn, targets = jax.vmap(draw)(keys, truths, present)
    logits = jnp.take_along_axis(logits, drawn.indices, axis=1)
    deltas = jnp.take_along_axis(deltas, drawn.indices[..., None], axis=1)
    count = collectives.mean_count(drawn.counted.reshape(-1), axis_name)
    entropy = losses.binary_cross_entropy(logits, drawn.positive, drawn.counted)
    distance = losses.smooth_l1(deltas, targets, drawn.positive, beta=BETA)
    return {"objectness": entropy / count, "rpn_box": distance / count}
