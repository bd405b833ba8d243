"""Boxes: area, overlap, coding relative to other boxes, and clipping.

A box is (x1, y1, x2, y2) in pixels, float32; its width is x2 - x1, so that a box from 0 to 10 is 10
pixels wide. The rules are those of torchvision: `ops.boxes` and `models.detection._utils.BoxCoder`.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

LARGEST_SCALE = math.log(1000 / 16)  # the largest dw and dh that `decode` takes
_SMALLEST = 1e-6  # pixels: what `encode` takes for a width of 0, whose logarithm is not finite


def area(boxes: Float32[Array, "*rows 4"]) -> Float32[Array, "*rows"]:
    """Returns the areas in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float32[Array, "n 4"], b: Float32[Array, "m 4"]) -> Float32[Array, "n m"]:
    """Returns the area of the intersection over that of the union, for every pair; 0 to 1.

    Two boxes without area have 0, where torchvision has NaN.
    """
    low = jnp.maximum(a[:, None, :2], b[None, :, :2])
    high = jnp.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = jnp.maximum(high - low, 0).prod(-1)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 0)


def encode(
    boxes: Float32[Array, "*rows 4"],
    anchors: Float32[Array, "*rows 4"],
    weights: tuple[float, float, float, float],
) -> Float32[Array, "*rows 4"]:
    """Returns the deltas (dx, dy, dw, dh) that lead from the anchors to the boxes.

    dx and dy are shifts of the centre in widths and heights of the anchor, dw and dh logarithms of
    the ratio of the sizes; each is multiplied by its weight. Sizes below 1e-6 are taken as 1e-6.

    Reference: Girshick et al. 2014 (R-CNN), appendix C.
    """
    (box_center, box_size), (center, size) = _centers(boxes), _centers(anchors)
    box_size, size = jnp.maximum(box_size, _SMALLEST), jnp.maximum(size, _SMALLEST)
    deltas = jnp.concatenate([(box_center - center) / size, jnp.log(box_size / size)], axis=-1)
    return deltas * _row(weights, deltas.ndim)


def decode(
    deltas: Float32[Array, "*rows 4"],
    anchors: Float32[Array, "*rows 4"],
    weights: tuple[float, float, float, float],
) -> Float32[Array, "*rows 4"]:
    """Returns the boxes to which the deltas lead from the anchors; the inverse of `encode`.

    A box is at most 1000 / 16 times as wide and as high as its anchor.
    """
    center, size = _centers(anchors)
    deltas = deltas / _row(weights, deltas.ndim)
    center = center + deltas[..., :2] * size
    half = 0.5 * size * jnp.exp(jnp.minimum(deltas[..., 2:], LARGEST_SCALE))
    return jnp.concatenate([center - half, center + half], axis=-1)


def clip(
    boxes: Float32[Array, "*rows 4"], image_size: Float32[Array, "2"]
) -> Float32[Array, "*rows 4"]:
    """Returns the boxes cut off at the edges of an image of size (height, width)."""
    edges = image_size[jnp.array([1, 0, 1, 0])].reshape((1,) * (boxes.ndim - 1) + (4,))
    return jnp.clip(boxes, 0, edges)


def reaches(boxes: Float32[Array, "*rows 4"], size: float) -> Bool[Array, "*rows"]:
    """Returns whether width and height are at least `size` pixels."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= size).all(-1)


def _centers(boxes):
    """Returns the centres (x, y) and the sizes (width, height)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


def _row(weights, ndim: int):
    return jnp.array(weights, jnp.float32).reshape((1,) * (ndim - 1) + (4,))
