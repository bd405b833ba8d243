"""Blurs an image with a Gaussian."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax.config.rules import RANGE, SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.data.augment.draws import uniforms


class Settings(Section):
    """The settings of `blur`."""

    prob = key(0.5, SHARE, "probability that the operator changes the image")
    sigma = key((0.1, 2.0), RANGE, "range of the standard deviation in pixels")


def blur_radius(size: int) -> int:
    """Returns how many pixels the blur reads on each side of a pixel, for images of side `size`.

    As in SimCLR the kernel spans a tenth of the image: 23 pixels at 224, and at least 3.
    """
    return max(1, size // 20)


def _reflected_taps(size: int, radius: int) -> np.ndarray:
    """Returns float32 [radius + 1, size, size]: how often output i reads pixel j at distance d.

    Beyond the border the image is mirrored: pixel -1 is pixel 1, and pixel `size` is size - 2.
    """
    taps = np.zeros((radius + 1, size, size), np.float32)
    rows = np.arange(size)
    for offset in range(-radius, radius + 1):
        columns = np.abs(rows + offset)
        columns = np.where(columns < size, columns, 2 * (size - 1) - columns)
        np.add.at(taps[abs(offset)], (rows, columns), 1)
    return taps


def _blur_matrix(sigma: jax.Array | float, *, size: int, radius: int) -> jax.Array:
    """Returns the matrix that blurs one axis, float32 [size, size]."""
    distances = jnp.arange(radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (distances / sigma) ** 2)
    weights = weights / (2 * weights.sum() - weights[0])
    taps = _reflected_taps(size, radius)
    return jnp.einsum("d,dij->ij", weights, taps, precision=jax.lax.Precision.HIGHEST)


def gaussian_blur(
    image: jax.Array, sigma: jax.Array | float, *, radius: int | None = None
) -> jax.Array:
    """Blurs an image as torchvision's `gaussian_blur`: 2 radius + 1 taps, reflected border.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      sigma: scalar > 0, in pixels.
      radius: taps on each side, less than H and W; `blur_radius` of the shorter side by default.

    Returns:
      float32 [H, W, 3] in [0, 1].

    Raises:
      ValueError: the radius is not less than both sides of the image.
    """
    height, width, _ = image.shape
    radius = blur_radius(min(height, width)) if radius is None else radius
    if radius >= min(height, width):
        raise ValueError(
            f"a blur of radius {radius} does not fit an image of {height} by {width} pixels:"
            " use a smaller radius or a larger image."
        )
    # Two products with banded matrices: under vmap `sigma` differs from image to image, but a
    # convolution has one kernel for the whole batch.
    rows = _blur_matrix(sigma, size=height, radius=radius)
    columns = rows if height == width else _blur_matrix(sigma, size=width, radius=radius)
    blurred = jnp.einsum(
        "sh,hwc,tw->stc", rows, image, columns, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.clip(blurred, 0, 1)


def apply(
    key: jax.Array, image: jax.Array, settings: ml_collections.ConfigDict, size: int
) -> jax.Array:
    """Applies `gaussian_blur` with probability `prob`, with sigma uniform in its range."""
    chance, place = uniforms(key, 2)
    low, high = settings.sigma
    blurred = gaussian_blur(image, low + (high - low) * place)
    return jnp.where(chance < settings.prob, blurred, image)
