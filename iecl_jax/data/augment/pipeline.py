"""Turns uint8 images into the normalised views of `config.augment`, on the device."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax.config import kinds
from iecl_jax.data.augment.resizing import resize


def run_key(seed: jax.Array | int) -> jax.Array:
    """Returns the key of all augmentations of a run, from its seed, uint32."""
    # The first of the two keys initialises the parameters.
    return jax.random.split(jax.random.key(seed))[1]


def image_keys(key: jax.Array, step: jax.Array | int, places: jax.Array) -> jax.Array:
    """Returns one key per image, from the run's key, the step and the place in the global batch.

    Because places are those in the global batch, the number of devices does not change an image.

    Args:
      key: the run's typed key.
      step: an int scalar.
      places: int32 [B], the places of the images in the global batch.

    Returns:
      Typed keys [B].
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, step), places)


def _to_float(images: jax.Array) -> jax.Array:
    return images.astype(jnp.float32) / 255


def _channels(values: Sequence[float], ndim: int) -> np.ndarray:
    return np.asarray(values, np.float32).reshape((1,) * (ndim - 1) + (3,))


def normalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Returns (images - mean) / std per channel, for float32 [..., 3] in [0, 1]."""
    return (images - _channels(mean, images.ndim)) / _channels(std, images.ndim)


def denormalize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Inverts `normalize` and clips: float32 [..., 3] to pictures [..., 3] in [0, 1]."""
    return jnp.clip(images * _channels(std, images.ndim) + _channels(mean, images.ndim), 0, 1)


def view_sizes(augment: ml_collections.ConfigDict, image_size: int) -> list[int]:
    """Returns the side of each view in pixels."""
    return [augment[name].size or image_size for name in augment.views]


def _make_view(
    view: ml_collections.ConfigDict, size: int, *, cut: bool
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns a function (key, uint8 [H, W, 3]) -> view, float32 [size, size, 3] in [0, 1].

    If `cut` is True, the host has cropped the images to that size, and `crop` is left out.
    """
    names = [kinds.stem(name) for name in view.operators]
    modules = [kinds.load("operator", name, key="operators") for name in view.operators]
    # An operator without settings has no section.
    settings = {name: view[name] if name in view else ml_collections.ConfigDict() for name in names}
    never = [name for name in names if "prob" in settings[name] and settings[name].prob == 0]
    left_out = [*never, "crop"] if cut else never

    def random_view(key: jax.Array, image: jax.Array) -> jax.Array:
        # Operators that are left out have a key too, so the keys of the others do not change.
        keys = jax.random.split(key, len(names))
        image = _to_float(image)
        if "crop" not in view.operators:
            image = resize(image, size=size)
        for key, name, module in zip(keys, names, modules, strict=True):
            if name not in left_out:
                image = module.apply(key, image, settings[name], size)
                _check_shape(name, image, size)
        return image

    return random_view


def _groups(views: Sequence[ml_collections.ConfigDict]) -> list[list[int]]:
    """Returns the places of the views, grouped: neighbours with equal settings share a group.

    The first two views never share a group with the others, so that the number of further views
    does not change the program of the first two.
    """
    return [list(group) for _, group in groupby(range(len(views)), lambda i: (i < 2, views[i]))]


def make_augment(
    augment: ml_collections.ConfigDict,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Callable[[jax.Array, jax.Array | list[jax.Array]], list[jax.Array]]:
    """Builds the training augmentation.

    Args:
      augment: `config.augment`, the names of the views and the operators of each.
      image_size: side of a view whose own `size` is 0, in pixels.
      mean, std: three numbers each, for values in [0, 1]; see `data.statistics`.

    Returns:
      A pure function (keys, images) -> views:
        keys: typed keys [B], one per image.
        images: uint8 [B, H, W, 3], which the function crops; or a list with the host's crops for
          each view, uint8 [B, S_i, S_i, 3].
        views: a list of float32 [B, S_i, S_i, 3], normalised. A view depends only on its place in
          the list, its image and the key of its image.
      It raises ValueError if images have another shape or dtype, if an operator does not exist, or
      if an operator changes the size of an image.
    """
    views = [augment[name] for name in augment.views]
    sizes, groups = view_sizes(augment, image_size), _groups(views)

    def augmented(keys: jax.Array, images: jax.Array | list[jax.Array]) -> list[jax.Array]:
        cut = isinstance(images, list)
        _check_images(images, sizes if cut else None)

        def of_batch(random_view, place, images):
            view_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, place)
            return jax.vmap(random_view)(view_keys, images)

        made: list[jax.Array] = []
        for places in groups:
            first = places[0]
            random_view = _make_view(views[first], sizes[first], cut=cut)
            if len(places) == 1:
                made.append(of_batch(random_view, first, images[first] if cut else images))
                continue
            # A vmap over the views of a group compiles as fast as one view.
            crops = jnp.stack([images[place] for place in places]) if cut else images
            of_places = jax.vmap(partial(of_batch, random_view), (0, 0 if cut else None))
            made += jnp.unstack(of_places(jnp.array(places), crops))
        return [normalize(view, mean, std) for view in made]

    return augmented


def make_eval_transform(
    image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[jax.Array], jax.Array]:
    """Builds the transformation for evaluation, which resizes to S by S and normalises.

    Args:
      image_size: side S of the result.
      mean, std: three numbers each, for values in [0, 1]; see `data.statistics`.

    Returns:
      A pure function from uint8 [B, H, W, 3] to float32 [B, S, S, 3]. It resizes the whole image
      bilinearly, with antialiasing. It raises ValueError if images have another shape or dtype.
    """

    def transform(images: jax.Array) -> jax.Array:
        _check_images(images, None)
        resized = jax.vmap(lambda image: resize(_to_float(image), size=image_size))(images)
        return normalize(resized, mean, std)

    return transform


def _check_images(images: jax.Array | list[jax.Array], sizes: Sequence[int] | None) -> None:
    """Raises ValueError unless images are uint8 [B, H, W, 3], or a list with one array per size."""
    given = images if isinstance(images, list) else [images]
    shapes = [each.shape[1:] for each in given]
    if sizes is None:
        wanted = "[B, H, W, 3]"
        right = len(shapes[0]) == 3 and shapes[0][-1] == 3
    else:
        wanted = " and ".join(f"[B, {size}, {size}, 3]" for size in sizes)
        right = shapes == [(size, size, 3) for size in sizes]
    if not right or any(each.dtype != jnp.uint8 for each in given):
        found = " and ".join(f"{each.dtype} {list(each.shape)}" for each in given)
        raise ValueError(f"images must be uint8 {wanted}, not {found}.")


def _check_shape(name: str, image: jax.Array, size: int) -> None:
    if image.shape != (size, size, 3):
        raise ValueError(
            f"the operator {name!r} made {list(image.shape)} of an image, which must be "
            f"{[size, size, 3]}."
        )
