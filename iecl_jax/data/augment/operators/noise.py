"""Adds Gaussian noise to an image."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import NOT_NEGATIVE, SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms


class Settings(Section):
    """The settings of `noise`."""

    prob = key(0.0, SHARE, "probability that the operator changes the image")
    std = key(0.1, NOT_NEGATIVE, "standard deviation of the noise, for values in [0, 1]")


def add_noise(image: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns clip(image + noise), float32 [H, W, 3] in [0, 1]; the noise has the same shape."""
    return jnp.clip(image + noise, 0, 1)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Adds independent N(0, std^2) values, clipped, with probability `prob`."""
    chance, values = jax.random.split(key)
    noise = settings.std * jax.random.normal(values, image.shape)
    return jnp.where(uniforms(chance, 1)[0] < settings.prob, add_noise(image, noise), image)
