"""Faster R-CNN with a feature pyramid (Ren et al. 2015; Lin et al. 2017), on any encoder's stages.

Modules have the names of torchvision's `models.detection.fasterrcnn_resnet50_fpn`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Key

from iecl_jax.config.rules import RATES, WIDTH, multiple
from iecl_jax.config.section import Section, key
from iecl_jax.models.detection import roi_head
from iecl_jax.models.detection import rpn as rpn_lib
from iecl_jax.models.detection.anchors import grid_anchors
from iecl_jax.models.detection.fpn import FPN
from iecl_jax.models.detection.roi_align import pyramid_roi_align

STAGES = ("stage1", "stage2", "stage3", "stage4")
STRIDE = 32  # of the last stage: the canvas is a multiple of it


class Settings(Section):
    """The settings of the detector; the defaults are torchvision's."""

    fpn_width = key(256, WIDTH, "channels of the feature pyramid")
    anchor_sizes = key(
        (32.0, 64.0, 128.0, 256.0, 512.0), RATES, "pixels: root of the area, a level each"
    )
    anchor_ratios = key((0.5, 1.0, 2.0), RATES, "height / width of the anchors of a cell")

    rpn = rpn_lib.Settings
    roi = roi_head.Settings


def check(name: str, settings: Any) -> None:
    """Raises ValueError if the canvas or the anchors do not fit the pyramid.

    Args:
      name: the section of the settings, for the message.
      settings: the values of `Settings`, and `image_size`, the side of the canvas.
    """
    multiple(f"{name}.image_size", settings.image_size, STRIDE, "pixels of the last stride")
    wanted = len(STAGES) + 1
    if len(settings.anchor_sizes) != wanted:
        raise ValueError(
            f"{name}.anchor_sizes={settings.anchor_sizes} must be {wanted} numbers, one for each "
            "level of the pyramid."
        )


class Detector(nn.Module):
    """What follows the encoder: the feature pyramid, the proposals, and their classes.

    Attributes:
      num_classes: number of classes without the background.
      settings: of `Settings`.
      canvas: height and width of the encoder's input in pixels, multiples of 32.
      axis_name: the axis of the devices over which the losses count.
      dtype: type of the activations; boxes and losses are float32.

    Every image lies at the top left of its canvas, and `image_size`, float32 [B, 2], has its height
    and width there.
    """

    num_classes: int
    settings: ml_collections.FrozenConfigDict
    canvas: tuple[int, int]
    axis_name: str | None = None
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the three parts."""
        settings = self.settings
        self.fpn = FPN(settings.fpn_width, self.dtype)
        self.rpn = rpn_lib.RPNHead(len(settings.anchor_ratios), self.dtype)
        self.roi = roi_head.BoxHead(self.num_classes, settings.roi.hidden_dim, self.dtype)

    def __call__(
        self, stages: Mapping[str, Float[Array, "B ..."]], boxes: Float32[Array, "B n 4"]
    ) -> tuple[list, list, Float32[Array, "B n C"], Float32[Array, "B n C 4"]]:
        """Returns the outputs of all layers: of the RPN by level, and for the given boxes."""
        pyramid = self.pyramid(stages)
        return *self.rpn(pyramid), *self.classify(pyramid, boxes)

    def pyramid(self, stages: Mapping[str, Float[Array, "B ..."]]) -> tuple[Array, ...]:
        """Returns the levels of the pyramid, for the outputs of an encoder."""
        return self.fpn(tuple(stages[name] for name in STAGES))

    def anchors(self, pyramid: tuple[Array, ...]) -> list[np.ndarray]:
        """Returns the anchors of each level."""
        sizes, ratios = self.settings.anchor_sizes, self.settings.anchor_ratios
        return [
            grid_anchors((level.shape[1], level.shape[2]), self.canvas, size, ratios)
            for level, size in zip(pyramid, sizes, strict=True)
        ]

    def classify(
        self, pyramid: tuple[Array, ...], boxes: Float32[Array, "B n 4"]
    ) -> tuple[Float32[Array, "B n C"], Float32[Array, "B n C 4"]]:
        """Returns the logits and the deltas of boxes."""

        # One image after another, and again in the backward pass: what RoIAlign has in between is
        # larger than the pyramid.
        @jax.checkpoint
        def align(image):
            levels, boxes = image
            return pyramid_roi_align(
                levels,
                boxes,
                canvas=self.canvas[0],
                output_size=self.settings.roi.output_size,
                sampling_ratio=self.settings.roi.sampling_ratio,
                aligned=self.settings.roi.aligned,
            )

        features = jax.lax.map(align, (pyramid[:-1], boxes))
        logits, deltas = self.roi(features.reshape(-1, *features.shape[2:]))
        batch = boxes.shape[:2]
        return logits.reshape(*batch, -1), deltas.reshape(*batch, -1, 4)

    def losses(
        self,
        stages: Mapping[str, Float[Array, "B ..."]],
        truths: roi_head.Truths,
        image_size: Float32[Array, "B 2"],
        keys: Key[Array, "B"],
    ) -> dict[str, Float32[Array, ""]]:
        """Returns the four losses, whose sum is minimised: see `rpn.loss` and `roi_head.loss`.

        Args:
          stages: the outputs of the encoder.
          truths: the objects of the images.
          image_size: see the class.
          keys: a key for each image, for the draws.
        """
        pyramid = self.pyramid(stages)
        logits, deltas = self.rpn(pyramid)
        anchors = self.anchors(pyramid)
        first, second = jnp.split(jax.vmap(jax.random.split)(keys), 2, axis=1)
        found = rpn_lib.loss(
            jnp.concatenate(logits, axis=1),
            jnp.concatenate(deltas, axis=1),
            jnp.concatenate([jnp.asarray(each) for each in anchors]),
            truths.boxes,
            truths.present,
            first[:, 0],
            settings=self.settings.rpn,
            axis_name=self.axis_name,
        )
        rpn = self.settings.rpn
        most = rpn.before_nms_train, rpn.after_nms_train
        proposals, valid = self._propose(logits, deltas, anchors, image_size, most)

        def draw(*image):
            return roi_head.draw(*image, settings=self.settings.roi)

        drawn = jax.vmap(draw)(second[:, 0], proposals, valid, *truths)
        outputs = self.classify(pyramid, drawn.boxes)
        return found | roi_head.loss(*outputs, drawn, axis_name=self.axis_name)

    def detect(
        self,
        stages: Mapping[str, Float[Array, "B ..."]],
        image_size: Float32[Array, "B 2"],
    ) -> roi_head.Detections:
        """Returns the detections of each image; see the class for `image_size`."""
        pyramid = self.pyramid(stages)
        logits, deltas = self.rpn(pyramid)
        rpn = self.settings.rpn
        most = rpn.before_nms_test, rpn.after_nms_test
        proposals, valid = self._propose(logits, deltas, self.anchors(pyramid), image_size, most)
        outputs = self.classify(pyramid, proposals)

        def finish(image):
            return roi_head.detections(*image, settings=self.settings.roi)

        return jax.lax.map(finish, (*outputs, proposals, valid, image_size))

    def _propose(self, logits, deltas, anchors, image_size, most: tuple[int, int]):
        """Returns (boxes, valid) of the proposals of all images.

        `most` are the numbers before and after suppression.
        """

        def of_image(logits, deltas, image_size):
            return rpn_lib.propose(
                logits,
                deltas,
                anchors,
                image_size,
                before_nms=most[0],
                after_nms=most[1],
                threshold=self.settings.rpn.nms_threshold,
            )

        boxes, _, valid = jax.vmap(of_image)(logits, deltas, image_size)
        return boxes, valid
