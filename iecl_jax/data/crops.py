"""Where the two random crops of an image lie, when the host cuts them."""

import math

import ml_collections
import numpy as np

from iecl_jax.data import images


def view_generator(seed: int, step: int, place: int, view: int) -> np.random.Generator:
    """Random numbers of one view: Philox keyed by (seed, step), counter set by (place, view)."""
    # The counter's two low words count the numbers drawn, so the streams never meet.
    return np.random.Generator(np.random.Philox(key=[seed, step], counter=[0, 0, view, place]))


def sample_box(
    generator: np.random.Generator,
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> images.Box:
    """A box as torchvision's RandomResizedCrop.get_params draws it.

    The area's share of the image is uniform in `scale`, log(width / height) uniform between the
    logs of `ratio`, the place uniform. After ten boxes that do not fit, the largest centred one
    whose width / height lies in `ratio`.
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


def random_views(
    source: images.Source, config: ml_collections.ConfigDict, step: int, place: int
) -> np.ndarray:
    """The anchor and query crops of the image at `place` of the global batch: uint8 [2,S,S,3].

    Decoder errors (OSError and others) pass through.
    """
    image = images.open_image(source)
    views = config.augment.anchor, config.augment.query
    boxes = [
        sample_box(
            view_generator(config.seed, step, place, number),
            *image.size,
            ops.crop_scale,
            ops.crop_ratio,
        )
        for number, ops in enumerate(views)
    ]
    names = [ops.crop_interpolation for ops in views]
    return images.crop_views(image, boxes, config.data.image_size, names)
