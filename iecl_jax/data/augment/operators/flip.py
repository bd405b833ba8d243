"""Mirrors an image left to right."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms


class Settings(Section):
    """The settings of `flip`."""

    prob = key(0.5, SHARE, "probability that the operator changes the image")


def flip(image: jax.Array) -> jax.Array:
    """Mirrors an image left to right: [H, W, 3] of any dtype to the same."""
    return image[:, ::-1]


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Applies `flip` with probability `prob`."""
    return jnp.where(uniforms(key, 1)[0] < settings.prob, flip(image), image)
