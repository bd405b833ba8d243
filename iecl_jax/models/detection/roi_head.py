"""The second stage: the class of each proposal, and where exactly it is (Girshick 2015).

The rules are those of torchvision's `models.detection.roi_heads`. Class 0 is the background.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Float32, Int32, Key

from iecl_jax.config.rules import BOXES, FEW, FEW_OR_NONE, INSIDE_SHARE, SHARE, WIDTH
from iecl_jax.config.section import Section, key
from iecl_jax.losses import detection as losses
from iecl_jax.models import collectives
from iecl_jax.models.detection import assign, boxes
from iecl_jax.models.detection.nms import nms
from iecl_jax.models.detection.rpn import BETA

_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of the deltas
_SMALLEST = 0.01  # pixels; smaller detections are dropped
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's of Linear


class Settings(Section):
    """The settings of the second stage; the defaults are torchvision's."""

    output_size = key(7, FEW, "RoIAlign: bins per axis")
    sampling_ratio = key(2, FEW_OR_NONE, "RoIAlign: samples per bin and axis; 0 = by its length")
    aligned = key(
        False, None, "RoIAlign: half a cell is subtracted (detectron2), or not (torchvision)"
    )
    hidden_dim = key(1024, WIDTH, "units of the two hidden layers")
    foreground = key(0.5, INSIDE_SHARE, "IoU from which a proposal is an object, else background")
    sampled = key(512, BOXES, "proposals per image in the loss")
    positive_share = key(0.25, SHARE, "largest share of objects among them")
    score_threshold = key(0.05, SHARE, "test: least score of a detection")
    nms_threshold = key(0.5, INSIDE_SHARE, "test: IoU above which a detection is suppressed")
    detections = key(100, BOXES, "test: detections per image")


class Truths(NamedTuple):
    """The objects of B images, padded to G rows.

    Attributes:
      boxes: float32 [B, G, 4], in pixels of the canvas.
      labels: int32 [B, G], from 0 to num_classes - 1, without the background.
      present: bool [B, G], which rows are objects; the others are padding.
    """

    boxes: Float32[Array, "B G 4"]
    labels: Int32[Array, "B G"]
    present: Bool[Array, "B G"]


class Drawn(NamedTuple):
    """The proposals in the loss, of B images or of one; see `assign.Sample` for the last two.

    Attributes:
      boxes: float32 [B, n, 4].
      labels: int32 [B, n], 0 = background.
      targets: float32 [B, n, 4], the deltas to the truth of each.
      positive, counted: bool [B, n].
    """

    boxes: Float32[Array, "*B n 4"]
    labels: Int32[Array, "*B n"]
    targets: Float32[Array, "*B n 4"]
    positive: Bool[Array, "*B n"]
    counted: Bool[Array, "*B n"]


class Detections(NamedTuple):
    """The detections of an image by falling score, n = `settings.detections`.

    Attributes:
      boxes: float32 [n, 4], in pixels of the canvas.
      scores: float32 [n], 0 to 1.
      labels: int32 [n], from 0 to num_classes - 1, without the background.
      valid: bool [n]; the others fill up.
    """

    boxes: Float32[Array, "*B n 4"]
    scores: Float32[Array, "*B n"]
    labels: Int32[Array, "*B n"]
    valid: Bool[Array, "*B n"]


class BoxHead(nn.Module):
    """Maps the features of boxes to logits [n, C + 1] and deltas [n, C + 1, 4], float32."""

    num_classes: int
    hidden_dim: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "n _ _ _"]
    ) -> tuple[
        Float32[Array, "n {self.num_classes}+1"], Float32[Array, "n {self.num_classes}+1 4"]
    ]:
        def dense(features: int, name: str):
            return nn.Dense(features, kernel_init=_UNIFORM, dtype=self.dtype, name=name)

        x = features.reshape(len(features), -1)
        x = nn.relu(dense(self.hidden_dim, "fc6")(x))
        x = nn.relu(dense(self.hidden_dim, "fc7")(x))
        outputs = self.num_classes + 1
        logits = dense(outputs, "cls_score")(x).astype(jnp.float32)
        deltas = dense(4 * outputs, "bbox_pred")(x).astype(jnp.float32)
        return logits, deltas.reshape(-1, outputs, 4)


def draw(
    key: Key[Array, ""],
    proposals: Float32[Array, "n 4"],
    valid: Bool[Array, "n"],
    truths: Float32[Array, "G 4"],
    labels: Int32[Array, "G"],
    present: Bool[Array, "G"],
    *,
    settings: ml_collections.ConfigDict | ml_collections.FrozenConfigDict,
) -> Drawn:
    """Returns the boxes of one image that the loss is computed on; see `Truths` for the truths.

    The truths are among the candidates, so that there are positive ones from the first step.
    """
    candidates = jnp.concatenate([proposals, truths])
    usable = jnp.concatenate([valid, present])
    matched = assign.match(
        boxes.iou(truths, candidates),
        present,
        foreground=settings.foreground,
        background=settings.foreground,
        low_quality=False,
    )
    drawn = assign.sample(
        key,
        usable & (matched >= 0),
        usable & (matched == assign.BELOW),
        size=settings.sampled,
        share=settings.positive_share,
    )
    own = jnp.maximum(matched[drawn.indices], 0)
    found = candidates[drawn.indices]
    classes = jnp.where(drawn.positive, labels[own] + 1, 0)
    targets = boxes.encode(truths[own], found, _WEIGHTS)
    return Drawn(found, classes, targets, drawn.positive, drawn.counted)


def loss(
    logits: Float32[Array, "B n C"],
    deltas: Float32[Array, "B n C 4"],
    drawn: Drawn,
    *,
    axis_name: str | None,
) -> dict[str, Float32[Array, ""]]:
    """Returns {"class", "box"}: cross-entropy in nats, and smooth L1 of the own class's deltas.

    Both are sums over the boxes drawn, divided by their number on all devices, so that the mean
    over the devices is the loss.
    """
    own = jax.nn.one_hot(drawn.labels, logits.shape[-1], dtype=jnp.float32)
    deltas = (deltas * own[..., None]).sum(-2)
    count = collectives.mean_count(drawn.counted.reshape(-1), axis_name)
    entropy = losses.cross_entropy(logits, drawn.labels, drawn.counted)
    distance = losses.smooth_l1(deltas, drawn.targets, drawn.positive, beta=BETA)
    return {"class": entropy / count, "box": distance / count}


def detections(
    logits: Float32[Array, "n C"],
    deltas: Float32[Array, "n C 4"],
    proposals: Float32[Array, "n 4"],
    valid: Bool[Array, "n"],
    image_size: Float32[Array, "2"],
    *,
    settings: ml_collections.ConfigDict | ml_collections.FrozenConfigDict,
) -> Detections:
    """Returns the detections of one image; suppression is within a class."""
    scores = jax.nn.softmax(logits)[:, 1:]
    anchors = jnp.broadcast_to(proposals[:, None], deltas[:, 1:].shape)
    found = boxes.clip(boxes.decode(deltas[:, 1:], anchors, _WEIGHTS), image_size)
    usable = valid[:, None] & (scores > settings.score_threshold) & boxes.reaches(found, _SMALLEST)

    def suppress(found, scores, usable):
        return nms(found, scores, usable, settings.nms_threshold)

    kept = jax.vmap(suppress, in_axes=1, out_axes=1)(found, scores, usable)
    flat = jnp.where(kept, scores, -1).reshape(-1)
    best, index = jax.lax.top_k(flat, min(settings.detections, len(flat)))
    missing = settings.detections - len(best)
    best, index = jnp.pad(best, (0, missing), constant_values=-1), jnp.pad(index, (0, missing))
    labels = (index % scores.shape[1]).astype(jnp.int32)
    return Detections(found.reshape(-1, 4)[index], best, labels, best > 0)
