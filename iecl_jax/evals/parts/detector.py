"""An encoder with a detector: its loss on a batch, and its detections on whole images."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import data
from iecl_jax.data.augment import dense
from iecl_jax.data.voc.tree import Tree
from iecl_jax.evals.measures.average_precision import Detections
from iecl_jax.evals.parts import whole_images
from iecl_jax.evals.parts.backbone import Backbone
from iecl_jax.evals.parts.encoder import replicate
from iecl_jax.models import precision
from iecl_jax.models.detection import faster_rcnn
from iecl_jax.models.detection.roi_head import Truths
from iecl_jax.train.step import AXIS


class Network:
    """The encoder with the detector. The settings are those of the job, see `evals.detection`."""

    def __init__(self, encoder: Backbone, settings: Any, num_classes: int):
        self._encoder, self._start = encoder.module, encoder
        self._statistics = data.statistics(encoder.config.data)
        self.detector = faster_rcnn.Detector(
            num_classes,
            ml_collections.FrozenConfigDict(settings),
            (settings.image_size, settings.image_size),
            axis_name=AXIS,
            dtype=precision.compute_dtype(encoder.config),
        )

    def init(self, key: jax.Array) -> Any:
        """Returns the first parameters of the detector, on the host."""
        variables = {"params": self._start.params, "batch_stats": self._start.stats}
        side = faster_rcnn.STRIDE  # The parameters do not depend on the canvas.

        @jax.jit
        def init(key, variables):
            stages = self._encoder.apply(variables, jnp.zeros((1, side, side, 3)), train=False)
            detector = self.detector.copy(canvas=(side, side))
            return detector.init(key, _maps(stages), jnp.zeros((1, 1, 4)))["params"]

        return jax.device_get(init(key, variables))

    def loss(self, params: Any, stats: Any, batch: Any, keys: jax.Array) -> Any:
        """Returns (loss, (new stats, metrics)) of a batch; see `training.Task.loss`.

        The loss is the sum of the four of Faster R-CNN.
        """
        of_encoder, of_head = whole_images.variables(params, stats)
        stages, encoder = self._encoder.apply(
            of_encoder, self._inputs(batch), train=True, mutable=["batch_stats"]
        )
        truths = Truths(batch["boxes"], batch["labels"], batch["present"])
        size = batch["shown"].astype(jnp.float32)
        losses: Any = self.detector.apply(
            of_head, _maps(stages), truths, size, keys, method="losses"
        )
        new = {"encoder": encoder.get("batch_stats", {}), "head": stats["head"]}
        loss = sum(losses.values())
        return loss, (new, {f"{name}_loss": value for name, value in losses.items()})

    def detect(self, params: Any, stats: Any, batch: Any) -> Any:
        """Returns the `roi_head.Detections` of a batch, in pixels of the canvas."""
        of_encoder, of_head = whole_images.variables(params, stats)
        stages = self._encoder.apply(of_encoder, self._inputs(batch), train=False)
        size = batch["shown"].astype(jnp.float32)
        return self.detector.apply(of_head, _maps(stages), size, method="detect")

    def _inputs(self, batch: Any) -> jax.Array:
        images = batch["image"].astype(jnp.float32) / 255
        return whole_images.inputs(images, batch["shown"], self._statistics)


def _maps(stages: Any) -> Any:
    return {name: stages[name] for name in faster_rcnn.STAGES}


class Predictor:
    """Finds the objects of the test images."""

    def __init__(self, network: Network, split: Tree, settings: Any, num_threads: int):
        self.split, self._settings, self._num_threads = split, settings, num_threads
        self._detect: Any = jax.pmap(network.detect, in_axes=(None, None, 0), axis_name=AXIS)

    def __call__(
        self, params: Any, stats: Any, indices: np.ndarray
    ) -> Iterator[tuple[int, Detections]]:
        """Yields (index, detections in pixels of the image) of test images."""
        side = self._settings.image_size
        params, stats = replicate((params, stats))
        for part, batch in whole_images.batches(
            self.split,
            indices,
            side,
            batch_size=self._settings.batch_size,
            num_threads=self._num_threads,
        ):
            found = jax.device_get(self._detect(params, stats, batch))
            boxes, scores, labels, valid = (a.reshape(-1, *a.shape[2:]) for a in found)
            for row, index in enumerate(part):
                height, width = self.split.sizes[index]
                at = dense.fitted((int(height), int(width)), (side, side))
                kept = valid[row]
                own = dense.boxes_of_source(boxes[row][kept], at)
                yield int(index), Detections(own, labels[row][kept], scores[row][kept])
