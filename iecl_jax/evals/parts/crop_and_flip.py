"""The view on which a classifier is trained: a random crop, mirrored or not."""

from typing import Any

import ml_collections

from iecl_jax.config.pretrain import View
from iecl_jax.config.section import with_defaults


class CropAndFlip(View):
    """The view that the classifier is trained on: only random resized crop and horizontal flip."""

    @staticmethod
    def inside(own, given):
        """Returns the settings of each operator, with the defaults of this view."""
        changed: dict[str, dict[str, Any]] = {
            "crop": {"scale": (0.08, 1.0)},
            "jitter": {"prob": 0.0},
            "gray": {"prob": 0.0},
            "blur": {"prob": 0.0},
        }
        found = View.inside(own, given)
        return {name: with_defaults(each, changed.get(name, {})) for name, each in found.items()}


def stream_config(
    pretrain: ml_collections.ConfigDict, view: Any, *, batch_size: int, seed: int
) -> ml_collections.ConfigDict:
    """Returns a pretraining config with this single view, for `data.TrainBatches`.

    Args:
      pretrain: the config of the network, whose `data` stays.
      view: the values of `CropAndFlip`.
      batch_size: images per step, over all devices.
      seed: of the order and of the crops.
    """
    config = ml_collections.ConfigDict(pretrain.to_dict())
    config.seed, config.train.batch_size = seed, batch_size
    config.augment.update({"views": ("anchor",), "anchor": view})
    return config
