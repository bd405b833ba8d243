"""Measures detections: average precision by the rules of PASCAL VOC and of COCO.

VOC (https://doi.org/10.1007/s11263-014-0733-5, section 4.2; VOCdevkit's VOCevaldet): the detections
of a class, over all images, are sorted by score. Each belongs to the object of its class and image
with which it has the largest IoU, if that is at least the threshold. It is right if it is the first
of this object, and wrong if it is a later one or has no object. If the object is difficult, it is
neither. Difficult objects do not count as objects to be found.

COCO (https://cocodataset.org/#detection-eval; pycocotools' COCOeval): within an image, each
detection in order of score takes the free object with the largest IoU. Difficult objects are its
crowds: any number of detections may belong to one, by the share of the detection that it covers,
and those are neither right nor wrong. Precision is read at 101 recalls.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from iecl_jax.data.voc.annotation import Objects
from iecl_jax.evals.measures.precision_recall import (
    Curve,
    area,
    count,
    eleven_points,
    hundred_and_one_points,
    mean,
)

__all__ = [
    "COCO_MOST",
    "COCO_THRESHOLDS",
    "Curve",
    "Detections",
    "area",
    "coco",
    "eleven_points",
    "iou",
    "mean",
    "voc",
    "voc_curves",
    "voc_match",
]

COCO_THRESHOLDS = np.linspace(0.5, 0.95, 10)
COCO_MOST = 100  # detections of a class in an image that count, those with the highest scores


class Detections(NamedTuple):
    """What was found in an image.

    Attributes:
      boxes: float32 [n, 4], x1 y1 x2 y2 in pixels of the image.
      labels: int32 [n], classes without background.
      scores: float32 [n], higher = surer.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def iou(
    found: np.ndarray, true: np.ndarray, *, inclusive: bool = False, of_found: bool = False
) -> np.ndarray:
    """Returns the IoU, float64 [D, G], of boxes [D, 4] with boxes [G, 4].

    Args:
      found: x1 y1 x2 y2.
      true: x1 y1 x2 y2.
      inclusive: if True, x2 and y2 are the last pixels inside, so that a width is x2 - x1 + 1, as
        in VOCdevkit. Boxes that were read with `box_origin="voc"` have their ends after the last
        pixel: the same IoU as VOCdevkit's, without this.
      of_found: if True, divides by the area of the found box instead of the union.
    """
    found, true = found.astype(np.float64), true.astype(np.float64)
    last = np.array(1.0 if inclusive else 0.0)
    low = np.maximum(found[:, None, :2], true[None, :, :2])
    high = np.minimum(found[:, None, 2:], true[None, :, 2:])
    inside = np.maximum(high - low + last, 0).prod(axis=-1)
    area = (found[:, 2:] - found[:, :2] + last).prod(axis=-1)[:, None]
    union = area if of_found else area + (true[:, 2:] - true[:, :2] + last).prod(axis=-1) - inside
    # Boxes without area have none in common with anything.
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def voc_match(
    true: Objects, seen: Detections, *, threshold: float = 0.5, inclusive: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Says by the rules of VOC which detections in an image are right.

    Args:
      true: the objects.
      seen: the n detections.
      threshold: the least IoU of a right detection.
      inclusive: see `iou`.

    Returns:
      (right, neither), both bool [n]; what is neither lies on a difficult object.
    """
    overlap = iou(seen.boxes, true.boxes, inclusive=inclusive)
    overlap = np.where(seen.labels[:, None] == true.labels, overlap, -1.0)
    # One more object, which nothing overlaps, since there may be none.
    overlap = np.pad(overlap, ((0, 0), (0, 1)), constant_values=-1.0)
    best = overlap.argmax(axis=1)
    close = overlap.max(axis=1) >= threshold
    neither = close & np.append(true.difficult, False)[best]
    order = np.argsort(-seen.scores, kind="stable")
    order = order[(close & ~neither)[order]]
    _, earliest = np.unique(best[order], return_index=True)
    right = np.zeros(len(best), bool)
    right[order[earliest]] = True
    return right, neither


def voc_curves(
    truth: Sequence[Objects],
    found: Sequence[Detections],
    num_classes: int,
    *,
    threshold: float = 0.5,
    inclusive: bool = False,
) -> list[Curve]:
    """Returns the curve of each class by the rules of VOC.

    Args:
      truth: the objects of each image.
      found: the detections in each image, in the same order.
      num_classes: the number of classes without background.
      threshold, inclusive: see `voc_match`.
    """
    matches = [
        voc_match(*pair, threshold=threshold, inclusive=inclusive)
        for pair in zip(truth, found, strict=True)
    ]
    right = _joined([each for each, _ in matches], bool)
    counted = ~_joined([each for _, each in matches], bool)
    scores = _joined([seen.scores for seen in found], np.float32)
    labels = _joined([seen.labels for seen in found], np.int32)
    wanted = _joined([true.labels[~true.difficult] for true in truth], np.int32)
    order = np.argsort(-scores, kind="stable")
    order = order[counted[order]]
    curves = []
    for label in range(num_classes):
        mine = order[labels[order] == label]
        curves.append(count(right[mine], scores[mine], int((wanted == label).sum())))
    return curves


def voc(
    truth: Sequence[Objects],
    found: Sequence[Detections],
    num_classes: int,
    *,
    threshold: float = 0.5,
    measure: Callable[[Curve], float] = area,
    inclusive: bool = False,
) -> np.ndarray:
    """Returns the average precision of each class by the rules of VOC, float64 [C] in [0, 1].

    It is NaN for a class without an object that is not difficult. For the arguments see
    `voc_curves`; `measure` is `area` or `eleven_points`.
    """
    curves = voc_curves(truth, found, num_classes, threshold=threshold, inclusive=inclusive)
    return np.array([measure(curve) for curve in curves])


def coco(
    truth: Sequence[Objects], found: Sequence[Detections], num_classes: int
) -> dict[str, float]:
    """Returns {"AP", "AP50", "AP75"} in [0, 1] by the rules of COCO, without areas and parts.

    AP is the mean over the IoU thresholds 0.5, 0.55, ..., 0.95, the others are at 0.5 and 0.75.
    They are means over the classes that have an object that is not difficult; NaN without one.
    """
    table = np.array([_coco_class(truth, found, label) for label in range(num_classes)])
    per_threshold = [mean(table[:, place]) for place in range(len(COCO_THRESHOLDS))]
    return {"AP": mean(table.ravel()), "AP50": per_threshold[0], "AP75": per_threshold[5]}


def _coco_class(truth: Sequence[Objects], found: Sequence[Detections], label: int) -> list[float]:
    """Returns the average precision of a class at each threshold; NaN without objects."""
    nothing = np.zeros((len(COCO_THRESHOLDS), 0), bool)
    scores, rights, ignored, positives = [], [nothing], [nothing], 0
    for true, seen in zip(truth, found, strict=True):
        of_class, mine = true.labels == label, np.flatnonzero(seen.labels == label)
        if not (mine.size or of_class.any()):
            continue
        mine = mine[np.argsort(-seen.scores[mine], kind="stable")[:COCO_MOST]]
        positives += int((of_class & ~true.difficult).sum())
        right, neither = _coco_match(
            seen.boxes[mine], true.boxes[of_class], true.difficult[of_class]
        )
        scores.append(seen.scores[mine])
        rights.append(right)
        ignored.append(neither)
    score = _joined(scores, np.float32)
    order = np.argsort(-score, kind="stable")
    right, neither = (np.concatenate(each, axis=1)[:, order] for each in (rights, ignored))
    return [
        hundred_and_one_points(count(right[place, kept], score[order][kept], positives))
        for place, kept in enumerate(~neither)
    ]


def _coco_match(
    boxes: np.ndarray, true: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Matches detections of an image, surest first, with its objects of the class.

    Args:
      boxes: float [D, 4], surest first.
      true: float [G, 4].
      crowd: bool [G].

    Returns:
      (right, neither), both bool [T, D], for each threshold.
    """
    right = np.zeros((len(COCO_THRESHOLDS), len(boxes)), bool)
    free = np.tile(~crowd, (len(COCO_THRESHOLDS), 1))
    plain = iou(boxes, true)
    places = np.arange(len(COCO_THRESHOLDS))
    for number in np.flatnonzero(plain.max(axis=1, initial=0) >= COCO_THRESHOLDS[0]):
        fits = free & (plain[number] >= COCO_THRESHOLDS[:, None])
        # The last of equals, as in pycocotools.
        best = len(true) - 1 - np.where(fits, plain[number], -1)[:, ::-1].argmax(axis=1)
        right[:, number] = fits[places, best]
        free[places[right[:, number]], best[right[:, number]]] = False
    covered = iou(boxes, true[crowd], of_found=True).max(axis=1, initial=0)
    return right, ~right & (covered >= COCO_THRESHOLDS[:, None])


def _joined(parts: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts])
