"""From uint8 images to the two normalised views of `config.augment`, on the device."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax.data.augment import color, crop, filters, geometry
from iecl_jax.data.augment.checks import check


def run_key(seed: jax.Array | int) -> jax.Array:
    """The key of all augmentations of a run, from its seed, uint32; not that of its parameters."""
    return jax.random.split(jax.random.key(seed))[1]


def image_keys(key: jax.Array, step: jax.Array | int, places: jax.Array) -> jax.Array:
    """One key per image, from the run's key, the step and the image's place in the global batch.

    Args:
      key: the run's typed key.
      step: int scalar.
      places: int32 [B], places in the global batch, so that the number of devices changes no image.

    Returns:
      typed keys [B].
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, step), places)


def _to_float(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255


def _channels(values: Sequence[float], ndim: int) -> np.ndarray:
    return np.asarray(values, np.float32).reshape((1,) * (ndim - 1) + (3,))


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """(images - mean) / std per channel, of float32 [..., 3] in [0, 1]."""
    return (images - _channels(mean, images.ndim)) / _channels(std, images.ndim)


def denormalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """The inverse of `normalize`, clipped: float32 [..., 3] to pictures, [..., 3] in [0, 1]."""
    return jnp.clip(images * _channels(std, images.ndim) + _channels(mean, images.ndim), 0, 1)


def _random_crop(
    key: jax.Array, image: jax.Array, ops: ml_collections.ConfigDict, size: int
) -> jax.Array:
    scale, ratio = tuple(ops.crop_scale), tuple(ops.crop_ratio)
    if scale == ratio == (1, 1) and image.shape[:2] == (size, size):
        return image
    return crop.random_resized_crop(
        key, image, size=size, scale=scale, ratio=ratio, interpolation=ops.crop_interpolation
    )


def _random_view(
    key: jax.Array, image: jax.Array, *, ops: ml_collections.ConfigDict, size: int, cropped: bool
) -> jax.Array:
    """One view, float32 [S, S, 3] in [0, 1], of a uint8 image; `cropped` ones are not cropped."""
    keys = jax.random.split(key, 8)
    image = _to_float(image)
    if not cropped:
        image = _random_crop(keys[0], image, ops, size)
    if ops.flip_prob:
        image = geometry.random_flip(keys[1], image, prob=ops.flip_prob)
    if ops.rotate_prob:
        image = geometry.random_rotate(
            keys[2], image, prob=ops.rotate_prob, degrees=ops.rotate_degrees
        )
    if ops.jitter_prob:
        image = color.random_color_jitter(
            keys[3],
            image,
            prob=ops.jitter_prob,
            brightness=ops.brightness,
            contrast=ops.contrast,
            saturation=ops.saturation,
            hue=ops.hue,
        )
    if ops.gray_prob:
        image = color.random_grayscale(keys[4], image, prob=ops.gray_prob)
    if ops.blur_prob:
        image = filters.random_gaussian_blur(
            keys[5], image, prob=ops.blur_prob, sigma=tuple(ops.blur_sigma)
        )
    if ops.solarize_prob:
        image = color.random_solarize(keys[6], image, prob=ops.solarize_prob)
    if ops.noise_prob:
        image = filters.random_add_noise(keys[7], image, prob=ops.noise_prob, std=ops.noise_std)
    return image


def _random_views(
    place: jax.Array | int,
    keys: jax.Array,
    images: jax.Array,
    *,
    ops: ml_collections.ConfigDict,
    size: int,
    cropped: bool,
) -> jax.Array:
    """The view at `place` (0: anchor, 1: query) of each image of a batch, float32 [B, S, S, 3]."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place)
    return jax.vmap(partial(_random_view, ops=ops, size=size, cropped=cropped))(keys, images)


def make_augment(
    augment: ml_collections.ConfigDict,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Builds the training augmentation.

    Args:
      augment: `config.augment`: the operators of the `anchor` and the `query` view.
      image_size: side S of the views.
      mean, std: three numbers each, of values in [0, 1]; see `data.statistics`.

    Returns:
      A pure function (keys, images) -> views. keys: typed keys [B], one per image. images: uint8
      [B, H, W, 3], cropped here, or uint8 [B, 2, S, S, 3], each image's anchor and query crop.
      views: float32 [2, B, S, S, 3], normalised, the anchor views first. A view depends on its
      image and its image's key alone. An operator of probability 0 is not in the program. The
      function raises ValueError for images of another shape or dtype.

    Raises:
      ValueError: if a setting is out of range.
    """
    check(augment)

    def augmented(keys: jax.Array, images: jax.Array) -> jax.Array:
        cropped = images.ndim == 5
        _check_images(images, image_size if cropped else None)
        of_batch = partial(_random_views, size=image_size, cropped=cropped)
        if augment.anchor == augment.query:  # one program for both
            places, axes = jnp.arange(2), (0, None, 1 if cropped else None)
            views = jax.vmap(partial(of_batch, ops=augment.anchor), axes)(places, keys, images)
        else:
            anchors, queries = (images[:, 0], images[:, 1]) if cropped else (images, images)
            anchors = of_batch(0, keys, anchors, ops=augment.anchor)
            queries = of_batch(1, keys, queries, ops=augment.query)
            views = jnp.stack([anchors, queries])
        return normalize(views, mean, std)

    return augmented


def make_eval_transform(
    image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[jax.Array], jax.Array]:
    """Builds the transformation of images to be evaluated: resized to S by S and normalised.

    Args:
      image_size: side S of the result.
      mean, std: three numbers each, of values in [0, 1]; see `data.statistics`.

    Returns:
      A pure function from uint8 [B, H, W, 3] to float32 [B, S, S, 3]; the whole image is resized,
      bilinearly with antialiasing. It raises ValueError for images of another shape or dtype.
    """

    def transform(images: jax.Array) -> jax.Array:
        _check_images(images, None)
        resized = jax.vmap(lambda image: crop.resize(_to_float(image), size=image_size))(images)
        return normalize(resized, mean, std)

    return transform


def _check_images(images: jax.Array, size: int | None) -> None:
    """Images must be uint8 [B, H, W, 3], or [B, 2, size, size, 3] if a size is given."""
    wanted = "[B, H, W, 3]" if size is None else f"[B, 2, {size}, {size}, 3]"
    right = images.ndim == 4 and images.shape[3] == 3
    if size is not None:
        right = images.shape[1:] == (2, size, size, 3)
    if images.dtype != jnp.uint8 or not right:
        raise ValueError(f"images must be uint8 {wanted}, not {images.dtype} {list(images.shape)}.")
