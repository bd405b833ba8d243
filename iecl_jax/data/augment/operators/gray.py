"""Taking the colour out of an image."""

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms

_WEIGHTS = (0.2989, 0.587, 0.114)


class Settings(Section):
    """Of `gray`."""

    prob = key(0.2, SHARE, "probability")


def luminance(image: jax.Array) -> jax.Array:
    """.2989 R + .587 G + .114 B: float32 [H, W, 3] to [H, W]."""
    red, green, blue = _WEIGHTS
    return red * image[..., 0] + green * image[..., 1] + blue * image[..., 2]


def grayscale(image: jax.Array) -> jax.Array:
    """`luminance` in each channel: float32 [H, W, 3] in [0, 1] to the same."""
    return jnp.broadcast_to(luminance(image)[..., None], image.shape)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """`grayscale` with probability `prob`."""
    return jnp.where(uniforms(key, 1)[0] < settings.prob, grayscale(image), image)
