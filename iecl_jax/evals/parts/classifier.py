"""An encoder with a linear classifier that are trained together: loss, logits, and rates."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from iecl_jax import data
from iecl_jax.config import kinds
from iecl_jax.data import augment
from iecl_jax.evals.measures import linear_probe
from iecl_jax.evals.parts.backbone import Backbone
from iecl_jax.evals.parts.encoder import Encode, over_devices
from iecl_jax.evals.parts.whole_images import variables


class Network:
    """The encoder with a linear layer from its pooled features to the classes."""

    def __init__(self, encoder: Backbone, config: ml_collections.ConfigDict, num_classes: int):
        """Compiles nothing yet.

        Args:
          encoder: the encoder.
          config: what `crop_and_flip.stream_config` returned; it makes the training images.
          num_classes: the number of classes.
        """
        self.start, self.num_classes = encoder, num_classes
        size, statistics = config.data.image_size, data.statistics(config.data)
        self._make_views = augment.make_augment(config.augment, size, *statistics)
        transform = augment.make_eval_transform(size, *statistics)
        self._image_shape = (1, size, size, 3)

        def logits(params, stats, images):
            of_encoder, _ = variables(params, stats)
            found: Any = encoder.module.apply(of_encoder, transform(images), train=False)
            return linear_probe.probe_logits(params["head"], found["pooled"])

        self._logits = jax.pmap(logits, in_axes=(None, None, 0))

    def head(self, seed: int) -> Any:
        """Returns a new linear layer, on the host: {"kernel" [F, C], "bias" [C]}."""
        of_encoder = {"params": self.start.params, "batch_stats": self.start.stats}
        apply = functools.partial(self.start.module.apply, train=False)
        found: Any = jax.eval_shape(apply, of_encoder, jnp.zeros(self._image_shape))
        width = found["pooled"].shape[-1]
        probe = linear_probe.init_probe(
            jax.random.key(seed), width, self.num_classes, optax.identity()
        )
        return jax.device_get(probe.params)

    def loss(self, params: Any, stats: Any, batch: Any, keys: jax.Array) -> Any:
        """Returns (loss, (new stats, metrics)) of a batch; see `training.Task.loss`.

        The loss is the mean cross-entropy of the images, which all have a label. BN normalises by
        the batch, and its running statistics move.
        """
        [view] = self._make_views(keys, batch["image"])
        of_encoder, _ = variables(params, stats)
        found, moved = self.start.module.apply(
            of_encoder, view, train=True, mutable=["batch_stats"]
        )
        logits = linear_probe.probe_logits(params["head"], found["pooled"])
        labels = batch["label"]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        right = (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
        new = {"encoder": moved.get("batch_stats", {}), "head": {}}
        return loss, (new, {"accuracy": right})

    def bind(self, params: Any, stats: Any) -> Encode:
        """Returns a function: images uint8 [b, H, W, 3] -> logits float32 [b, C].

        The images are resized whole, and BN uses its running statistics. b must be a multiple of
        the number of devices.
        """
        return over_devices(self._logits, params, stats)


def rates(
    params: Any, encoder: str, peaks: tuple[float, float], *, layer_decay: float, name: str
) -> dict[str, Any]:
    """Returns the peak learning rate float32 [] of each parameter.

    A part of the encoder at depth d has layer_decay^(D - d) times the encoder's rate, where D is
    the depth of the last part (Clark et al. 2020, section 3.2).

    Args:
      params: {"encoder", "head"}.
      encoder: the name of the encoder; with a decay other than 1 its file must have `depth`, see
        `models.encoders`.
      peaks: the rates of the encoder and of the head.
      layer_decay: the factor from a part of the encoder to the part before it.
      name: the section of the settings, for the error.

    Raises:
      ValueError: the depths of the encoder's parts are not known.
    """
    depth_of = getattr(kinds.load("encoder", encoder), "depth", None)
    if depth_of is None and layer_decay != 1:
        raise ValueError(
            f"{name}.layer_decay={layer_decay} needs an encoder whose file has depth(name), which "
            f"{encoder} lacks: set {name}.layer_decay=1.0."
        )
    depths = {part: depth_of(part) if depth_of else 0 for part in params["encoder"]}
    last = max(depths.values())

    def spread(rate: float, tree: Any) -> Any:
        return jax.tree.map(lambda _: np.float32(rate), tree)

    of_encoder = {
        part: spread(peaks[0] * layer_decay ** (last - depths[part]), tree)
        for part, tree in params["encoder"].items()
    }
    return {"encoder": of_encoder, "head": spread(peaks[1], params["head"])}
