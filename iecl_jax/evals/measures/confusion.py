"""Measures segmentations by one confusion matrix over all pixels of all images.

The intersection over union of class c is TP / (TP + FP + FN), from sums over the whole split (not
a mean over images), as in VOCdevkit's VOCevalseg (https://doi.org/10.1007/s11263-014-0733-5,
section 4.2.2) and in scikit-learn's `jaccard_score`.
"""

import numpy as np

from iecl_jax.data.voc.mask import IGNORED


def count(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the confusion matrix of an image, at the image's own size.

    Args:
      truth: uint8 [H, W] in [0, num_classes), or IGNORED: such pixels are not counted.
      predicted: integers [H, W] in [0, num_classes).
      num_classes: the number of classes with background.

    Returns:
      int64 [num_classes, num_classes], pixels of class (row) that are predicted as class (column).

    Raises:
      ValueError: the shapes differ, or a number is no class.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape.")
    known = truth != IGNORED
    rows, columns = truth[known].astype(np.int64), predicted[known].astype(np.int64)
    for name, values in (("truth", rows), ("prediction", columns)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(f"the {name} must be in 0 to {num_classes - 1}.")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def iou(matrix: np.ndarray) -> np.ndarray:
    """Returns the IoU in [0, 1] of each class, float64 [C].

    It is NaN for a class that is neither in the truth nor predicted.
    """
    right = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - right
    return np.divide(right, union, out=np.full(len(matrix), np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray) -> float:
    """Returns the mean of `iou` over the classes that have one; NaN if none has."""
    known = iou(matrix)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Returns the share of the pixels that are right, in [0, 1]; NaN if there are none."""
    return float(np.trace(matrix) / matrix.sum()) if matrix.any() else float("nan")


def trivial(matrix: np.ndarray) -> np.ndarray:
    """Returns the matrix of the predictor that says the most frequent class of the truth."""
    totals = matrix.sum(axis=1)
    constant = np.zeros_like(matrix)
    constant[:, totals.argmax()] = totals
    return constant
