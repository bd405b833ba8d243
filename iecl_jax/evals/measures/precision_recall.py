"""The curve of precision over recall, and the measures of PASCAL VOC and COCO that sum it up."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_COCO_RECALLS = np.linspace(0, 1, 101)


class Curve(NamedTuple):
    """The counts of a class as the score falls; what is neither right nor wrong is left out.

    Attributes:
      right: int64 [n], right detections so far.
      wrong: int64 [n], wrong detections so far.
      scores: float32 [n].
      positives: the objects to be found.
    """

    right: np.ndarray
    wrong: np.ndarray
    scores: np.ndarray
    positives: int

    @property
    def recall(self) -> np.ndarray:
        """float64 [n] in [0, 1]; NaN if there is no object to be found."""
        return self.right / self.positives if self.positives else np.full(len(self.right), np.nan)

    @property
    def precision(self) -> np.ndarray:
        """float64 [n] in [0, 1]."""
        return self.right / (self.right + self.wrong)

    @property
    def envelope(self) -> np.ndarray:
        """float64 [n]: the highest precision at this recall or a higher one."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]


def count(right: np.ndarray, scores: np.ndarray, positives: int) -> Curve:
    """Returns the curve of detections by falling score, of which `right`, bool [n], are right."""
    return Curve(np.cumsum(right), np.cumsum(~right), scores, positives)


def area(curve: Curve) -> float:
    """Returns the area below the envelope, VOC's measure since 2010; NaN without objects."""
    if not curve.positives:
        return float("nan")
    steps = np.diff(curve.recall, prepend=0.0)
    return float((steps * curve.envelope).sum())


def eleven_points(curve: Curve) -> float:
    """Returns the mean of the envelope at the recalls 0, 0.1, ..., 1, VOC's measure until 2009.

    It is NaN without objects, and 0 where the recall is not reached.
    """
    if not curve.positives:
        return float("nan")
    # In whole numbers, since 3 of 10 is no less than the recall 0.3.
    places = [np.searchsorted(10 * curve.right, k * curve.positives) for k in range(11)]
    return float(np.append(curve.envelope, 0.0)[places].mean())


def hundred_and_one_points(curve: Curve) -> float:
    """Returns the mean of the envelope at the recalls 0, 0.01, ..., 1, COCO's measure.

    It is NaN without objects, and 0 where the recall is not reached.
    """
    if not curve.positives:
        return float("nan")
    places = np.searchsorted(curve.recall, _COCO_RECALLS)
    return float(np.append(curve.envelope, 0.0)[places].mean())


def mean(values: Sequence[float] | np.ndarray) -> float:
    """Returns the mean of the values that are finite; NaN if none is."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")
