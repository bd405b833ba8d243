"""Resizes a box of an image with antialiasing, as two matrix products.

Resizing is linear and separable. So the result is `rows @ image @ columns.T`, with matrices [S, H]
and [S, W] that depend on the box. This way every image of a batch can have its own box without
gathering or slicing, whose shapes would have to be equal.
"""

import jax
import jax.numpy as jnp

INTERPOLATIONS = ("bilinear", "bicubic")


def _triangle(distance: jax.Array) -> jax.Array:
    return jnp.maximum(1 - distance, 0)


def _cubic(distance: jax.Array) -> jax.Array:
    """Returns the cubic kernel of Keys with a = -0.5, which is Pillow's BICUBIC."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0.0))


def resampling_matrix(
    start: jax.Array | float,
    length: jax.Array | float,
    *,
    in_size: int,
    out_size: int,
    interpolation: str = "bilinear",
) -> jax.Array:
    """Returns the matrix that resizes pixels [start, start + length) of a line to `out_size`.

    It follows Pillow. Output pixel i is centred at (i + .5) * length / out_size within the box. The
    kernel is widened by the factor of down-scaling (antialiasing). Weights outside the box are
    dropped, and each row is normalised to sum 1.

    Args:
      start: first pixel of the box, an integer in any dtype, 0 <= start < in_size.
      length: pixels of the box, an integer in any dtype, 0 < length <= in_size - start.
      in_size, out_size: pixels before and after.
      interpolation: "bilinear" or "bicubic".

    Returns:
      float32 [out_size, in_size], zero outside the box.

    Raises:
      ValueError: the interpolation is unknown.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"interpolation {interpolation!r} is unknown: use one of {', '.join(INTERPOLATIONS)}."
        )
    kernel = _triangle if interpolation == "bilinear" else _cubic
    start, length = jnp.float32(start), jnp.float32(length)
    scale = length / out_size
    centers = (jnp.arange(out_size, dtype=jnp.float32) + 0.5) * scale
    pixels = jnp.arange(in_size, dtype=jnp.float32) + 0.5 - start
    distance = jnp.abs(pixels[None, :] - centers[:, None]) / jnp.maximum(scale, 1)
    inside = (pixels > 0) & (pixels < length)
    weights = jnp.where(inside[None, :], kernel(distance), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def resized_crop(
    image: jax.Array, box: jax.Array, *, size: int, interpolation: str = "bilinear"
) -> jax.Array:
    """Cuts out a box and resizes it to a square, as torchvision's `resized_crop(antialias=True)`.

    Args:
      image: float32 [H, W, 3] in [0, 1].
      box: integers [4], (top, left, height, width) in pixels, inside the image.
      size: side S of the result.
      interpolation: "bilinear" or "bicubic".

    Returns:
      float32 [S, S, 3] in [0, 1].

    Raises:
      ValueError: the interpolation is unknown.
    """
    height, width, _ = image.shape
    top, left, box_height, box_width = box
    rows, columns = (
        resampling_matrix(start, length, in_size=pixels, out_size=size, interpolation=interpolation)
        for start, length, pixels in ((top, box_height, height), (left, box_width, width))
    )
    resized = jnp.einsum(
        "sh,hwc,tw->stc", rows, image, columns, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.clip(resized, 0, 1)  # a cubic kernel overshoots, and products round


def resize(image: jax.Array, *, size: int, interpolation: str = "bilinear") -> jax.Array:
    """Resizes the whole image, float32 [H, W, 3] in [0, 1], to [size, size, 3] in [0, 1].

    An image of that size is returned as it is.
    """
    height, width, _ = image.shape
    if height == width == size:
        return image
    box = jnp.array([0, 0, height, width])
    return resized_crop(image, box, size=size, interpolation=interpolation)
