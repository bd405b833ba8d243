"""L2-regularised logistic regression, whose penalty is chosen on held-out examples.

It is the linear evaluation of Kornblith et al. (2019), "Do Better ImageNet Models Transfer
Better?", and of Chen et al. (2020), section B.8.1, which choose among 45 penalties.
"""

import copy
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from iecl_jax.evals.measures.knn import share_right
from iecl_jax.evals.measures.probe_grid import split_holdout

_MOST_ITERATIONS = 1000  # of L-BFGS: weak penalties on features that separate the classes need many


class Classifier(NamedTuple):
    """A trained classifier.

    Attributes:
      scaler: scikit-learn's StandardScaler of the training features.
      model: scikit-learn's LogisticRegression on standardised features.
    """

    scaler: Any
    model: Any

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns the classes int64 [N] of features float [N, F]."""
        return self.model.predict(self.scaler.transform(np.asarray(features, np.float64)))


class Choice(NamedTuple):
    """How a penalty was chosen.

    Attributes:
      penalty: the best one; of equals, the largest.
      scores: the score of each penalty on the held-out examples, float64 [P].
    """

    penalty: float
    scores: np.ndarray


def train(features: np.ndarray, labels: np.ndarray, *, penalty: float) -> Classifier:
    """Trains a classifier on standardised features.

    It minimises the mean cross-entropy plus penalty / 2 times the squared norm of the kernel; the
    bias has no penalty. L-BFGS of scikit-learn takes at most 1000 iterations.

    Args:
      features: float [N, F].
      labels: int [N]; examples labelled -1 are left out, also of the mean and deviation.
      penalty: above 0.
    """
    [found] = _path(features, labels, [penalty])
    return found


def choose(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    penalties: Sequence[float],
    holdout: float,
    seed: int | tuple[int, ...],
    per_class: bool = False,
) -> Choice:
    """Chooses the penalty by the accuracy on a held-out, stratified part of the examples.

    Args:
      features: float [N, F].
      labels: int [N]; examples labelled -1 are left out.
      penalties: P of them, in any order.
      holdout, seed: see `split_holdout`.
      per_class: score by the mean of the classes' accuracies, not by the share of right examples.

    Raises:
      ValueError: see `split_holdout`.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    kept, held = split_holdout(labels, share=holdout, seed=seed)
    falling = np.argsort(penalties)[::-1]
    scores = np.empty(len(penalties))
    path = _path(features[kept], labels[kept], [penalties[place] for place in falling])
    for place, found in zip(falling, path, strict=True):
        scores[place] = accuracy(found.predict(features[held]), labels[held], per_class=per_class)
    best = falling[scores[falling].argmax()]
    return Choice(float(penalties[best]), scores)


def accuracy(predicted: np.ndarray, labels: np.ndarray, *, per_class: bool = False) -> float:
    """Returns the share of right predictions, in [0, 1].

    With `per_class` it is the mean over classes of the share in the class, which counts rare
    classes as much as others.

    Args:
      predicted: classes int [N].
      labels: int [N]; examples labelled -1 do not count.

    Raises:
      ValueError: no example is labelled.
    """
    known = np.asarray(labels) >= 0
    if not known.any():
        raise ValueError("no test example is labelled, so there is no accuracy: use another split.")
    predicted, labels = np.asarray(predicted)[known], np.asarray(labels)[known]
    if not per_class:
        return share_right(predicted, labels)
    right = predicted == labels
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


def _path(features: np.ndarray, labels: np.ndarray, penalties: Sequence[float]) -> list[Classifier]:
    """Returns a classifier for each penalty, each of which starts from the one before."""
    # Imported here, since it takes a second: commands that only read a config do not need it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    known = np.asarray(labels) >= 0
    x, y = np.asarray(features, np.float64)[known], np.asarray(labels)[known]
    scaler = StandardScaler().fit(x)
    x, found = scaler.transform(x), []
    model = LogisticRegression(max_iter=_MOST_ITERATIONS, warm_start=True)
    for penalty in penalties:
        model.set_params(C=1 / (penalty * len(x)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, y)
        found.append(Classifier(scaler, copy.deepcopy(model)))
    return found
