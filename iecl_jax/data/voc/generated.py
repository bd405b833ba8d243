"""Images with masks and boxes without files, for smoke tests: shapes on a ground of noise."""

import colorsys
import functools
import math
from typing import NamedTuple

import numpy as np

from iecl_jax.data.voc.annotation import Objects
from iecl_jax.data.voc.mask import IGNORED
from iecl_jax.data.voc.tree import Tree

CLASSES = ("disk", "square", "triangle", "cross")
NUM_TRAIN, NUM_TEST = 64, 32
_MOST = 4  # shapes in an image
_VISIBLE = 0.6  # a shape of which less is visible is difficult
_EMPTY = 8  # one of so many images has no object


class Drawing(NamedTuple):
    """An image, uint8 [H, W, 3], its mask, uint8 [H, W], and its objects."""

    image: np.ndarray
    mask: np.ndarray
    objects: Objects


def open_tree(*, split: str = "train", size: int = 96) -> Tree:
    """Opens 64 images for "train", or 32 others for any other split, with masks and boxes.

    Args:
      split: the name of the split.
      size: the longer side of each image in pixels; the shorter one is 2/3 of it or more.
    """
    first, length = (0, NUM_TRAIN) if split == "train" else (NUM_TRAIN, NUM_TEST)
    drawn = functools.lru_cache(length)(lambda place: draw(first + place, size))
    return Tree(
        ids=tuple(f"shapes{first + place}" for place in range(length)),
        classes=CLASSES,
        sizes=np.array([_shape(first + place, size) for place in range(length)]),
        identity={"images": length, "classes": len(CLASSES), "size": size, "first": first},
        image=lambda place: drawn(place).image,
        mask=lambda place: drawn(place).mask,
        objects=lambda place: drawn(place).objects,
    )


def draw(index: int, size: int) -> Drawing:
    """Draws image `index`: up to four shapes, later ones before earlier ones.

    The class decides the shape and roughly the hue. As in VOC, a border of a pixel around a shape
    is ignored in the mask, and a box is the extent of what is visible. A shape that is hidden
    wholly is no object; one that is hidden for the most part is difficult.
    """
    generator = np.random.default_rng((2012, index))
    height, width = _shape(index, size)
    image = generator.normal(generator.uniform(0.25, 0.75, 3), 0.08, (height, width, 3))
    owner = np.zeros((height, width), int)  # number of the visible shape from 1; 0 = none
    labels: list[int] = []
    areas: list[int] = []
    count = 0 if index % _EMPTY == _EMPTY - 1 else int(generator.integers(1, _MOST + 1))
    for number in range(1, count + 1):
        label = (index + number) % len(CLASSES)
        radius = generator.uniform(0.1, 0.25) * size
        middle = generator.uniform(0.1, 0.9, 2) * (height, width)
        y, x = np.mgrid[:height, :width] + 0.5 - middle[:, None, None]
        inside = _inside(CLASSES[label], x / radius, y / radius)
        hue = (label + generator.uniform(-0.25, 0.25)) / len(CLASSES)
        colour = np.array(colorsys.hsv_to_rgb(hue % 1, 0.8, generator.uniform(0.6, 1.0)))
        image[inside] = colour + generator.normal(0, 0.04, (int(inside.sum()), 3))
        owner[inside] = number
        labels.append(label)
        areas.append(int(inside.sum()))
    return Drawing(
        image=np.clip(np.rint(255 * image), 0, 255).astype(np.uint8),
        mask=_mask(owner, labels),
        objects=_objects(owner, labels, areas),
    )


def _shape(index: int, size: int) -> tuple[int, int]:
    """Returns height and width of an image."""
    shorter = size - index % 4 * (size // 12)
    return (shorter, size) if index % 2 else (size, shorter)


def _inside(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns which points lie in a shape of radius 1 around 0."""
    if name == "disk":
        return x**2 + y**2 <= 1
    if name == "square":
        return np.maximum(abs(x), abs(y)) <= math.sqrt(0.5)
    if name == "triangle":
        return (y <= 0.7) & (abs(x) * 1.7 <= y + 1)
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1)


def _mask(owner: np.ndarray, labels: list[int]) -> np.ndarray:
    numbers = np.array([0, *(label + 1 for label in labels)], np.uint8)
    mask = numbers[owner]
    for axis in (0, 1):
        differs = np.diff(owner, axis=axis) != 0
        low, high = (np.moveaxis(mask, axis, 0)[cut] for cut in (slice(-1), slice(1, None)))
        # The side of the border that is a shape; between two shapes, both.
        for side, of in ((low, slice(-1)), (high, slice(1, None))):
            shape = np.moveaxis(owner, axis, 0)[of] > 0
            side[np.moveaxis(differs, axis, 0) & shape] = IGNORED
    return mask


def _objects(owner: np.ndarray, labels: list[int], areas: list[int]) -> Objects:
    boxes, kept, difficult = [], [], []
    for number, (label, area) in enumerate(zip(labels, areas), 1):
        rows, columns = np.nonzero(owner == number)
        if rows.size:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
            kept.append(label)
            difficult.append(rows.size < _VISIBLE * area)
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(kept, np.int32),
        np.array(difficult, bool),
    )
