"""Mirroring and rotating an image."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from iecl_jax.data.augment.draws import uniforms


def flip(image: jax.Array) -> jax.Array:
    """The mirror image, left for right: [H, W, 3] of any dtype to the same."""
    return image[:, ::-1]


def random_flip(key: jax.Array, image: jax.Array, *, prob: float = 0.5) -> jax.Array:
    """`flip` with probability `prob`."""
    return jnp.where(uniforms(key, 1)[0] < prob, flip(image), image)


def rotate(image: jax.Array, degrees: jax.Array | float) -> jax.Array:
    """Rotates counter-clockwise about the centre, as torchvision's bilinear `rotate`.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      degrees: scalar angle.

    Returns:
      float32 [H, W, 3] in [0, 1]; what comes from outside the image is 0.
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


def random_rotate(
    key: jax.Array, image: jax.Array, *, prob: float, degrees: float = 90.0
) -> jax.Array:
    """`rotate` with probability `prob` by an angle uniform in [-degrees, degrees]."""
    chance, angle = uniforms(key, 2)
    return jnp.where(chance < prob, rotate(image, degrees * (2 * angle - 1)), image)
