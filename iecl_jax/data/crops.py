"""Draws the random crops of an image and cuts them, on the host."""

import dataclasses
import math
import threading

import ml_collections
import numpy as np

from iecl_jax.data import images

Pair = tuple[float, float]

_of_thread = threading.local()  # holds a random generator for each thread


def view_generator(seed: int, step: int, place: int, view: int) -> np.random.Generator:
    """Returns the random generator of one view.

    It is a Philox generator with key (seed, step), whose counter starts at (place, view). Each
    thread has only one generator, so it is valid until the next call in that thread.
    """
    # Setting the state is faster than a new generator, which would read the system's entropy.
    if not hasattr(_of_thread, "generator"):
        _of_thread.generator = np.random.Generator(np.random.Philox(0))
    # The two low words of the counter count the numbers drawn, so streams never overlap.
    counter = np.array([0, 0, view, place], np.uint64)
    _of_thread.generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": counter, "key": np.array([seed, step], np.uint64)},
        "buffer": np.zeros(4, np.uint64),
        "buffer_pos": 4,  # the buffer counts as used up
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _of_thread.generator


def sample_box(
    generator: np.random.Generator,
    width: int,
    height: int,
    scale: Pair,
    ratio: Pair,
) -> images.Box:
    """Draws a box as torchvision's `RandomResizedCrop.get_params` does.

    The share of the image's area is uniform in `scale`, log(width / height) is uniform between the
    logs of `ratio`, and the place is uniform. If ten boxes do not fit, the result is the largest
    centred box whose width / height lies in `ratio`.
    """
    log_ratio = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(*log_ratio))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(generator.integers(height - h + 1))
            left = int(generator.integers(width - w + 1))
            return left, top, w, h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (width - w) // 2, (height - h) // 2, w, h


@dataclasses.dataclass(frozen=True)
class RandomViews:
    """Cuts the random views of an image; like the other cuts here, it can be pickled.

    Attributes:
      seed: of the boxes.
      sizes: the side S_i of each view in pixels.
      limits: (scale, ratio) of `sample_box` for each view; None = the whole image.
      interpolations: a name of `images.INTERPOLATIONS` for each view.
      how: how files are read.
    """

    seed: int
    sizes: tuple[int, ...]
    limits: tuple[tuple[Pair, Pair] | None, ...]
    interpolations: tuple[str, ...]
    how: images.Reading

    def __call__(self, source: images.Source, step: int, place: int) -> list[np.ndarray]:
        """Returns uint8 [S_i, S_i, 3], the views of the image at `place` in the batch of `step`.

        It raises the errors of the decoder (`images.DECODE_ERRORS`).
        """

        def boxes_of(width: int, height: int) -> list[images.Box]:
            return [
                sample_box(view_generator(self.seed, step, place, number), width, height, *of_view)
                if of_view
                else (0, 0, width, height)
                for number, of_view in enumerate(self.limits)
            ]

        return images.crop_views(source, boxes_of, self.sizes, self.interpolations, self.how)


@dataclasses.dataclass(frozen=True)
class WholeImage:
    """Decodes an image as it is: uint8 [H,W,3]."""

    how: images.Reading

    def __call__(self, source: images.Source, step: int, place: int) -> list[np.ndarray]:
        """Returns the one array."""
        return [images.decode(source, self.how)]


@dataclasses.dataclass(frozen=True)
class Centre:
    """Cuts the centre out of a resized image, see `images.center_crop`: uint8 [size,size,3]."""

    size: int
    how: images.Reading

    def __call__(self, source: images.Source, step: int, place: int) -> list[np.ndarray]:
        """Returns the one array."""
        return [images.center_crop(source, self.size, self.how)]


def random_views(config: ml_collections.ConfigDict) -> RandomViews:
    """Returns what cuts the views of a pretraining config; one without `crop` is the image."""
    # Imported late, since it takes seconds, and the processes that only decode do not need it.
    from iecl_jax.data.augment import view_sizes

    # Reads the config here, not per image: reading a ConfigDict takes microseconds.
    views = [config.augment[name] for name in config.augment.views]
    crops = [view.crop if "crop" in view.operators else None for view in views]
    return RandomViews(
        seed=config.seed,
        sizes=tuple(view_sizes(config.augment, config.data.image_size)),
        limits=tuple((tuple(crop.scale), tuple(crop.ratio)) if crop else None for crop in crops),
        interpolations=tuple(crop.interpolation if crop else "bilinear" for crop in crops),
        how=images.reading(config.data),
    )
