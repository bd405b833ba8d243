"""Draws the random crops of an image and cuts them, on the host."""

import math
import threading
from collections.abc import Callable

import ml_collections
import numpy as np

from iecl_jax.data import images
from iecl_jax.data.augment import view_sizes

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
    scale: tuple[float, float],
    ratio: tuple[float, float],
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


def make_random_views(
    config: ml_collections.ConfigDict,
) -> Callable[[images.Source, int, int], list[np.ndarray]]:
    """Builds the function that cuts the views of an image on the host.

    Args:
      config: a pretraining config.

    Returns:
      A function (source, step, place) -> a list of uint8 [S_i, S_i, 3], the views of
      `config.augment` of the image at `place` in the global batch of `step`. A view without `crop`
      is the whole image. The function raises the errors of the decoder (`images.DECODE_ERRORS`).
    """
    # Reads the config here, not per image: reading a ConfigDict takes microseconds.
    views = [config.augment[name] for name in config.augment.views]
    crops = [view.crop if "crop" in view.operators else None for view in views]
    limits = [(tuple(crop.scale), tuple(crop.ratio)) if crop else None for crop in crops]
    names = [crop.interpolation if crop else "bilinear" for crop in crops]
    seed, sizes = config.seed, view_sizes(config.augment, config.data.image_size)
    how = images.reading(config.data)

    def random_views(source: images.Source, step: int, place: int) -> list[np.ndarray]:
        def boxes_of(width: int, height: int) -> list[images.Box]:
            return [
                sample_box(view_generator(seed, step, place, number), width, height, *of_view)
                if of_view
                else (0, 0, width, height)
                for number, of_view in enumerate(limits)
            ]

        return images.crop_views(source, boxes_of, sizes, names, how)

    return random_views
