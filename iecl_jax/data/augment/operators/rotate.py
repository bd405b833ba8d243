"""Rotates an image about its centre."""

import jax
import jax.numpy as jnp
import ml_collections
from jax.scipy.ndimage import map_coordinates

from iecl_jax.config.rules import NOT_NEGATIVE, SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms


class Settings(Section):
    """The settings of `rotate`."""

    prob = key(0.0, SHARE, "probability that the operator changes the image")
    degrees = key(90.0, NOT_NEGATIVE, "largest angle in degrees, in either direction")


def rotate(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Rotates an image counter-clockwise about its centre, as torchvision's bilinear `rotate`.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      degrees: the angle, a scalar.

    Returns:
      float32 [H, W, 3] in [0, 1]; pixels from outside the image are 0.
    """
    height, width, _ = image.shape
    angle = jnp.deg2rad(jnp.float32(degrees))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - middle_y
    x = jnp.arange(width, dtype=jnp.float32)[None, :] - middle_x
    source = [sin * x + cos * y + middle_y, cos * x - sin * y + middle_x]
    rotated = jax.vmap(lambda plane: map_coordinates(plane, source, order=1), -1, -1)(image)
    return jnp.clip(rotated, 0, 1)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Rotates with probability `prob`, by an angle that is uniform in [-degrees, degrees]."""
    chance, angle = uniforms(key, 2)
    turned = rotate(image, settings.degrees * (2 * angle - 1))
    return jnp.where(chance < settings.prob, turned, image)
