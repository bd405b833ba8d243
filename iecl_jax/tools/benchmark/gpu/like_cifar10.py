"""Generated images, as many and as large as those of CIFAR-10, for timing without the data set."""

import functools

import ml_collections
import numpy as np

from iecl_jax.data.sources import generated
from iecl_jax.data.sources.cifar10 import MEAN, STD
from iecl_jax.data.sources.generated import NO_FOLDER
from iecl_jax.data.sources.tfds import Settings
from iecl_jax.data.split import Indices, Record, Split

__all__ = ["MEAN", "NO_FOLDER", "STD", "Settings", "open_split"]

LENGTHS = {"train": 50_000, "test": 10_000}
DIFFERENT = 1000  # drawn images, of which the others are copies
_draw = functools.cache(generated.draw)


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens 50,000 training or 10,000 test images of side `data.image_size` in ten classes."""
    size, part = data.image_size, "test" if split == "test" else "train"

    def read(indices: Indices) -> list[Record]:
        numbers = [int(index) for index in indices]
        classes = generated.NUM_CLASSES
        return [Record(_draw(number % DIFFERENT, size), number % classes) for number in numbers]

    return Split(
        name="like_cifar10",
        class_names=tuple(map(str, range(generated.NUM_CLASSES))),
        image_shape=(size, size),
        length=LENGTHS[part],
        read=read,
        read_labels=lambda: np.arange(LENGTHS[part]) % generated.NUM_CLASSES,
        is_train=part == "train",
    )
