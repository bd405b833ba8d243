"""An encoder with heads that segment: its loss on a batch, and its masks for whole images."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iecl_jax import data
from iecl_jax.data.augment.operators import jitter
from iecl_jax.data.voc.mask import IGNORED
from iecl_jax.data.voc.tree import Tree
from iecl_jax.evals.parts import whole_images
from iecl_jax.evals.parts.backbone import Backbone
from iecl_jax.evals.parts.encoder import replicate
from iecl_jax.models import collectives, deeplab, precision
from iecl_jax.train.step import AXIS


class Network:
    """The encoder with its heads. The settings are those of the job, see `evals.segmentation`."""

    def __init__(self, encoder: Backbone, settings: Any, num_classes: int):
        self._encoder, self._settings = encoder.module, settings
        self._start = encoder
        self._statistics = data.statistics(encoder.config.data)
        self.heads = deeplab.make(
            settings.head,
            num_classes,
            output_stride=settings.output_stride,
            channels=settings.head_channels,
            auxiliary=settings.auxiliary_weight > 0,
            axis_name=AXIS,
            dtype=precision.compute_dtype(encoder.config),
        )

    def init(self, key: jax.Array) -> Any:
        """Returns the first variables of the heads, on the host."""
        variables = {"params": self._start.params, "batch_stats": self._start.stats}

        @jax.jit
        def init(key, variables):
            x = jnp.zeros((2, 64, 64, 3))
            stages = self._encoder.apply(variables, x, train=False)
            return self.heads.init(key, stages, train=False)

        return jax.device_get(init(key, variables))

    def inputs(self, images: jax.Array, shown: jax.Array) -> jax.Array:
        """Normalises float32 [b, S, S, 3] in [0, 1], see `whole_images.inputs`."""
        return whole_images.inputs(images, shown, self._statistics)

    def logits(self, params: Any, stats: Any, x: jax.Array) -> jax.Array:
        """Returns the logits float32 [b, h, w, C] of normalised images; running statistics."""
        of_encoder, of_heads = whole_images.variables(params, stats)
        stages = self._encoder.apply(of_encoder, x, train=False)
        outputs: Any = self.heads.apply(of_heads, stages, train=False)
        return outputs["logits"]

    def loss(self, params: Any, stats: Any, batch: Any, keys: jax.Array) -> Any:
        """Returns (loss, (new stats, metrics)) of a batch; see `training.Task.loss`.

        The loss is the cross-entropy over the pixels that have a class, of logits that are
        upsampled bilinearly to the size of the image, plus that of the auxiliary head.
        """
        of_jitter, of_heads = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
        size = batch["image"].shape[1]
        images = batch["image"].astype(jnp.float32) / 255
        if self._settings.jitter.prob:
            images = jax.vmap(lambda k, x: jitter.apply(k, x, self._settings.jitter, size))(
                of_jitter, images
            )
        x = self.inputs(images, batch["shown"])
        of_encoder, variables = whole_images.variables(params, stats)
        stages, encoder = self._encoder.apply(of_encoder, x, train=True, mutable=["batch_stats"])
        outputs, heads = self.heads.apply(
            variables, stages, train=True, keys=of_heads, mutable=["batch_stats"]
        )
        losses = {
            name: cross_entropy(logits, batch["mask"], AXIS) for name, logits in outputs.items()
        }
        loss = losses["logits"]
        metrics = {"main_loss": loss}
        if "auxiliary" in losses:
            loss = loss + self._settings.auxiliary_weight * losses["auxiliary"]
            metrics["auxiliary_loss"] = losses["auxiliary"]
        new = {"encoder": encoder.get("batch_stats", {}), "head": heads["batch_stats"]}
        return loss, (new, metrics)


def cross_entropy(logits: jax.Array, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the mean cross-entropy of the pixels that have a class.

    The mean over the devices of the results is the mean over the pixels of all devices.

    Args:
      logits: float32 [b, h, w, C], which are upsampled bilinearly (pixel centres at halves).
      mask: uint8 [b, H, W]; IGNORED pixels do not count.
      axis_name: the axis of the devices.
    """
    logits = jax.image.resize(logits, (*mask.shape, logits.shape[-1]), "bilinear")
    known = mask != IGNORED
    labels = jnp.where(known, mask, 0).astype(jnp.int32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    count = collectives.mean_count(known.reshape(-1), axis_name)
    return jnp.where(known, losses, 0.0).sum() / count


class Predictor:
    """Predicts the masks of the test images, at their own size."""

    def __init__(self, network: Network, split: Tree, settings: Any, num_threads: int):
        self.split, self._settings, self._num_threads = split, settings, num_threads

        def predict(params, stats, batch, side):
            x = network.inputs(batch["image"].astype(jnp.float32) / 255, batch["shown"])
            logits = network.logits(params, stats, x)

            def classes(each):
                found = deeplab.upsampled(*each, canvas=settings.image_size, side=side)
                return found.argmax(-1).astype(jnp.uint8)

            return jax.lax.map(classes, (logits, batch["shown"], batch["source"]))

        self._predict: Any = jax.pmap(
            predict, in_axes=(None, None, 0), static_broadcasted_argnums=3, axis_name=AXIS
        )

    def __call__(
        self, params: Any, stats: Any, indices: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, predicted mask uint8 [H, W]) of test images."""
        params, stats = replicate((params, stats))
        # One program for all batches; 64 pixels more or less do not make another one.
        side = -(-int(self.split.sizes[indices].max()) // 64) * 64
        for part, batch in whole_images.batches(
            self.split,
            indices,
            self._settings.image_size,
            batch_size=self._settings.batch_size,
            num_threads=self._num_threads,
        ):
            found = np.asarray(self._predict(params, stats, batch, side))
            for index, mask in zip(part, found.reshape(-1, side, side), strict=False):
                height, width = self.split.sizes[index]
                yield int(index), mask[:height, :width]
