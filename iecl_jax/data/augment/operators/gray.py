"""Converts an image to grey."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms

_WEIGHTS = (0.2989, 0.587, 0.114)  # of ITU-R BT.601, rounded as in torchvision


class Settings(Section):
    """The settings of `gray`."""

    prob = key(0.2, SHARE, "probability that the operator changes the image")


def luminance(image: jax.Array) -> jax.Array:
    """Returns 0.2989 R + 0.587 G + 0.114 B: float32 [H, W, 3] to [H, W]."""
    red, green, blue = _WEIGHTS
    return red * image[..., 0] + green * image[..., 1] + blue * image[..., 2]


def grayscale(image: jax.Array) -> jax.Array:
    """Returns `luminance` in each channel: float32 [H, W, 3] in [0, 1] to the same."""
    return jnp.broadcast_to(luminance(image)[..., None], image.shape)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Applies `grayscale` with probability `prob`."""
    return jnp.where(uniforms(key, 1)[0] < settings.prob, grayscale(image), image)
