"""A data set without files for smoke tests: coloured stripes that depend on the image's index."""

import colorsys
import math

import ml_collections
import numpy as np

from iecl_jax.data.sources.tfds import MEAN, STD, Settings
from iecl_jax.data.split import MAX_NATIVE_SIZE, Indices, Record, Split

__all__ = ["MEAN", "NO_FOLDER", "STD", "Settings", "draw", "open_split"]

NO_FOLDER = True
NUM_CLASSES = 10
NUM_TRAIN, NUM_TEST = 256, 64


def draw(index: int, size: int) -> np.ndarray:
    """Draws image `index`, uint8 [size, size, 3], of class index % 10.

    The class decides the hue and the direction of the stripes. The index decides their position,
    the brightness and some noise.
    """
    label = index % NUM_CLASSES
    generator = np.random.default_rng((2024, index))
    angle = math.pi * label / NUM_CLASSES
    y, x = np.mgrid[:size, :size] / size
    along = x * math.cos(angle) + y * math.sin(angle)
    stripes = 0.5 + 0.5 * np.sin(2 * math.pi * (3 * along + generator.uniform()))
    colour = np.array(colorsys.hsv_to_rgb(label / NUM_CLASSES, 0.8, generator.uniform(0.7, 1.0)))
    image = stripes[..., None] * colour + generator.normal(0, 0.05, (size, size, 3))
    return np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)


def open_split(data: ml_collections.ConfigDict, split: str) -> Split:
    """Opens 256 training or 64 other test images of side `data.image_size` in ten classes."""
    size: int = data.image_size
    first, length = (NUM_TRAIN, NUM_TEST) if split == "test" else (0, NUM_TRAIN)

    def read(indices: Indices) -> list[Record]:
        places = [first + int(index) for index in indices]
        return [Record(draw(place, size), place % NUM_CLASSES) for place in places]

    return Split(
        name="generated",
        class_names=tuple(f"stripes{label}" for label in range(NUM_CLASSES)),
        image_shape=(size, size) if size <= MAX_NATIVE_SIZE else None,
        length=length,
        read=read,
        read_labels=lambda: np.arange(first, first + length) % NUM_CLASSES,
        is_train=split != "test",
    )
