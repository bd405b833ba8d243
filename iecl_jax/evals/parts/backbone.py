"""The encoder of a subject as the backbone of a network that is trained further, with its maps."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import build
from iecl_jax.models.conv import folded
from iecl_jax.train.step import AXIS


class Backbone(NamedTuple):
    """An encoder with the weights from which the training starts.

    Attributes:
      config: the pretraining config with the settings of this training.
      module: the encoder; its BN statistics are over all images of all devices.
      params, stats: its variables on the host.
    """

    config: ml_collections.ConfigDict
    module: nn.Module
    params: Any
    stats: Any


def of_subject(
    subject: Subject,
    *,
    precision: str,
    remat: bool,
    output_stride: int,
    stages: Sequence[str],
    name: str,
) -> Backbone:
    """Returns the encoder of a subject, without spectral normalisation.

    Spectral norms are divided out once: the kernels start as they were applied, and train freely.

    Args:
      subject: the network.
      precision, remat: see `train.precision` and `encoder.remat` of a pretraining.
      output_stride: see `models.encoders.resnet`; only where the encoder has that setting may it
        differ from 32.
      stages: the outputs of the encoder that are needed, maps [b, h, w, C].
      name: the section of the settings, for error messages.

    Raises:
      ValueError: the encoder cannot be dilated, or lacks one of the outputs.
    """
    config = ml_collections.ConfigDict(subject.config.to_dict())
    config.train.precision, config.encoder.bn_group = precision, 0
    params = subject.params["online"]["encoder"]
    stats = subject.method_state.get("online", {}).get("encoder", {})
    if config.encoder.get("spectral_norm"):
        config.encoder.spectral_norm = False
        params, stats = folded(params, stats)
    for key, value, usual in (("remat", remat, False), ("output_stride", output_stride, 32)):
        if key in config.encoder:
            config.encoder[key] = value
        elif value != usual:
            raise ValueError(
                f"{name}.{key}={value} needs an encoder with the setting {key}, which "
                f"{config.encoder.name} does not have: set {name}.{key}={usual}."
            )
    module = build.encoder(config, AXIS)
    if missing := _missing(config, params, stats, stages):
        raise ValueError(
            f"{name} needs maps of an encoder, and {config.encoder.name} does not return "
            f"{' and '.join(missing)}: evaluate another encoder, such as a ResNet."
        )
    return Backbone(config, module, *jax.device_get((params, stats)))


def _missing(config: Any, params: Any, stats: Any, stages: Sequence[str]) -> list[str]:
    """Returns the stages that the encoder does not return as maps."""
    if not stages:
        return []
    apply = functools.partial(build.encoder(config).apply, train=False)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    found: Any = jax.eval_shape(apply, {"params": params, "batch_stats": stats}, images)
    return [stage for stage in stages if getattr(found.get(stage), "ndim", 0) != 4]
