"""Counts, class by class, what a classifier gets right and which classes it mistakes for others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_PAIRS = 20


def top(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Returns the share, in [0, 1], of the labels that are among the k largest logits.

    Args:
      logits: float [N, C]. Of equal logits, the first come first.
      labels: int [N]; examples labelled -1 are not counted.
      k: from 1 to C.
    """
    known = labels >= 0
    largest = np.argsort(-logits[known], axis=1, kind="stable")[:, :k]
    return float((largest == labels[known, None]).any(axis=1).mean())


def per_class(predicted: np.ndarray, truth: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Returns the accuracy of each class and the most frequent confusions.

    Args:
      predicted: int [M], classes.
      truth: int [M], the labels; examples labelled -1 are not counted.
      names: the names of the classes.

    Returns:
      {"classes": [{"name", "images", "accuracy" in [0, 1]}, ...], lowest accuracy first, classes
      without images left out; "confusions": [{"name", "taken_for", "images"}, ...], most frequent
      first, at most 20}.
    """
    known = truth >= 0
    predicted, truth = np.asarray(predicted)[known], np.asarray(truth)[known]
    images = np.bincount(truth, minlength=len(names))
    right = np.bincount(truth[predicted == truth], minlength=len(names))
    accuracy = right / np.maximum(images, 1)
    order = [int(label) for label in np.argsort(accuracy, kind="stable") if images[label]]
    wrong = predicted != truth
    pairs, counts = np.unique(
        np.stack([truth[wrong], predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    most = np.argsort(-counts, kind="stable")[:_PAIRS]
    return {
        "classes": [
            {"name": names[i], "images": int(images[i]), "accuracy": float(accuracy[i])}
            for i in order
        ],
        "confusions": [
            {
                "name": names[pairs[i][0]],
                "taken_for": names[pairs[i][1]],
                "images": int(counts[i]),
            }
            for i in most
        ],
    }
