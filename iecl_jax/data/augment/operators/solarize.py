"""Inverts the bright values of an image."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms


class Settings(Section):
    """The settings of `solarize`."""

    prob = key(0.0, SHARE, "probability that the operator changes the image")


def solarize(image: jax.Array, *, threshold: float = 0.5) -> jax.Array:
    """Inverts values of at least `threshold`: float32 [H, W, 3] in [0, 1] to the same."""
    return jnp.where(image >= threshold, 1 - image, image)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Applies `solarize` with probability `prob`."""
    return jnp.where(uniforms(key, 1)[0] < settings.prob, solarize(image), image)
