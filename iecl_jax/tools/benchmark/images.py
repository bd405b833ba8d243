"""Opens the images for timing the input pipeline: the config's own, or generated ones."""

import io

import ml_collections
import numpy as np
from PIL import Image

from iecl_jax import data
from iecl_jax.data.sources import generated
from iecl_jax.data.split import Record

NUM_FILES = 64  # number of different generated images
FULL_SIZE = 8 / 7  # side of a file / side of a view: 256 / 224 pixels


def open_images(
    config: ml_collections.ConfigDict,
) -> tuple[ml_collections.ConfigDict, data.Split, str]:
    """Opens the pretraining images of a config.

    Returns:
      (config, split, note). If the data set or a package that reads it is missing, the split is
      `stand_in`, the config fits it, and the note says why. Otherwise the note is "".
    """
    try:
        split = data.open_split(config.data, "pretrain")
        data.check_batches(config, split)
        return config, split, ""
    except (ValueError, ImportError) as error:
        name, reason = config.data.name, str(error).splitlines()[0]
    split = stand_in(config)
    config = config.copy_and_resolve_references()
    if split.image_shape is None:
        config.data.cache = "none"
    return config, split, f"generated images stand in for {name}: {reason}"


def stand_in(config: ml_collections.ConfigDict) -> data.Split:
    """Returns generated images like those of the config, at least eight batches.

    If the host crops the images of the config, they are square JPEG files with 8/7 of the side of a
    view, so that decoding is timed. Otherwise they are arrays of the size of a view.
    """
    size = config.data.image_size
    files = data.cropped_on_host(config.data)
    side = round(FULL_SIZE * size) if files else size
    images = [generated.draw(index, side) for index in range(NUM_FILES)]
    sources = [_jpeg(image) for image in images] if files else images
    length = max(1024, 8 * config.train.batch_size)
    labels = np.arange(length) % generated.NUM_CLASSES
    return data.Split(
        name="generated",
        class_names=tuple(map(str, range(generated.NUM_CLASSES))),
        image_shape=None if files else (size, size),
        length=length,
        read=lambda indices: [Record(sources[i % NUM_FILES], int(labels[i])) for i in indices],
        read_labels=lambda: labels,
        num_threads=config.data.num_threads,
    )


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
