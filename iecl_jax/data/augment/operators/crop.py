"""Cuts a random box out of an image and resizes it."""

import math

import jax
import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import RANGE, SHARES
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms
from iecl_jax.data.augment.resizing import INTERPOLATIONS, resized_crop

_TRIES = 10  # as in torchvision


class Settings(Section):
    """The settings of `crop`, whether the device or the host crops."""

    scale = key((0.2, 1.0), SHARES, "range of the share of the image's area")
    ratio = key((3 / 4, 4 / 3), RANGE, "range of width / height")
    interpolation = key("bilinear", INTERPOLATIONS, "interpolation, with antialiasing")


def sample_box(
    key: jax.Array,
    height: int,
    width: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> jax.Array:
    """Draws a box as torchvision's `RandomResizedCrop.get_params` does.

    Ten tries draw the share of the area uniformly from `scale`, and log(width / height) uniformly
    between the logs of `ratio`. The first box that fits into the image is put at a uniform place.
    If none fits, the result is the largest centred box whose width / height is within `ratio`.

    Args:
      key: a typed key.
      height, width: pixels of the image.
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height.

    Returns:
      int32 [4], (top, left, height, width) in pixels.
    """
    # Draws all ten tries at once; under vmap a loop would run until the last image has its box.
    areas, aspects, places = jnp.split(uniforms(key, 2 * _TRIES + 2), [_TRIES, 2 * _TRIES])
    area = height * width * (scale[0] + (scale[1] - scale[0]) * areas)
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * aspects)
    widths = jnp.round(jnp.sqrt(area * aspect))
    heights = jnp.round(jnp.sqrt(area / aspect))
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    first = jnp.argmax(fits)
    fallback_height = min(height, round(width / ratio[0]))
    fallback_width = min(width, round(height * ratio[1]))
    box_height = jnp.where(fits.any(), heights[first], fallback_height)
    box_width = jnp.where(fits.any(), widths[first], fallback_width)
    spare = jnp.stack([height - box_height, width - box_width])
    place = jnp.floor(places * (spare + 1))
    place = jnp.where(fits.any(), jnp.minimum(place, spare), jnp.floor(spare / 2))
    return jnp.concatenate([place, jnp.stack([box_height, box_width])]).astype(jnp.int32)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Cuts a box that `sample_box` draws, and resizes it to float32 [size, size, 3].

    An image of that size is returned as it is if `scale` and `ratio` allow only the whole image.
    """
    height, width, _ = image.shape
    scale, ratio = tuple(settings.scale), tuple(settings.ratio)
    if scale == ratio == (1, 1) and height == width == size:
        return image
    box = sample_box(key, height, width, scale=scale, ratio=ratio)
    return resized_crop(image, box, size=size, interpolation=settings.interpolation)
