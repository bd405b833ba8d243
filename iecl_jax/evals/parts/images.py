"""The images of an evaluation, if they are others than those of the pretraining."""

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.config import kinds
from iecl_jax.config.rules import multiple


def with_images(
    pretrain: ml_collections.ConfigDict, images: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
    """Returns the pretraining config of a network, checked, with other images to evaluate on.

    The network keeps the mean and standard deviation with which it was trained, and its size of the
    images, unless `images` has others.

    Args:
      pretrain: the config with which the network was trained.
      images: `config.data` of the evaluation, see `config.evaluation.Images`.

    Raises:
      ValueError: the images do not exist, or a setting does not fit them or the network.
    """
    found = config_lib.choose(pretrain, {"data.name": images.name or pretrain.data.name})
    if images.name:
        found.data.update(images)
    same = found.data.name == pretrain.data.name
    found.data.dir = images.dir or (pretrain.data.dir if same else "")
    found.data.cache, found.data.image_size = images.cache, pretrain.data.image_size
    if images.name or images.mean or images.std:
        mean, std = data.statistics(pretrain.data)
        found.data.mean, found.data.std = images.mean or mean, images.std or std
    config_lib.check_pretrain(found, num_devices=1)
    if images.image_size not in (0, found.data.image_size):
        if found.saib.enabled:
            patch = found.saib.patch_size
            multiple("data.image_size", images.image_size, patch, "pixels of SAIB's patches")
        found.data.image_size = images.image_size
        kinds.check("encoder", found.encoder.name, found, 1)
    return found
