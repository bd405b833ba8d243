"""Logistic regression on a few randomly drawn labels of each class."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

Array = jax.Array | np.ndarray


def few_label_accuracy(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    *,
    labels_per_class: int,
    seed: int,
    num_draws: int = 5,
) -> tuple[float, float]:
    """Returns the test accuracy of logistic regression on a few labels, over several draws.

    The regression is that of `accuracies`. The draws only depend on train_labels and seed, so
    different representations of the same images are compared on the same draws.

    Args:
      train_features, test_features: float [N, F] and [M, F].
      train_labels, test_labels: int [N] and [M]; examples labelled -1 are neither drawn nor tested.
      labels_per_class: number of examples drawn from each class.
      seed: seed of the draws.
      num_draws: number of draws, at least 1.

    Returns:
      (mean, standard deviation) of the accuracy in [0, 1] over the draws. The standard deviation
      divides by num_draws - 1; it is 0 for one draw.

    Raises:
      ValueError: a class has fewer than labels_per_class examples, there are fewer than two
        classes, no test example is labelled, or num_draws < 1.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}: make at least 1.")
    labels = np.asarray(train_labels)
    draws = [
        draw_labels(labels, labels_per_class=labels_per_class, seed=seed, draw=draw)
        for draw in range(num_draws)
    ]
    return mean_and_std(accuracies(train_features, train_labels, test_features, test_labels, draws))


def accuracies(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    draws: Sequence[np.ndarray],
    *,
    c: float = 1.0,
) -> list[float]:
    """Returns the test accuracy, in [0, 1], of logistic regression on each draw of labels.

    Features are standardised by the mean and standard deviation of all training features, which
    needs no labels. The regression is scikit-learn's, run to convergence.

    Args:
      train_features, test_features: float [N, F] and [M, F].
      train_labels, test_labels: int [N] and [M]; test examples labelled -1 are not tested.
      draws: the rows int [n] of the training examples of each draw, all of them labelled.
      c: weight of the sum of the losses beside half the squared norm of the weights.

    Raises:
      ValueError: a draw has fewer than two classes, or no test example is labelled.
    """
    # Imported here, since it takes a second: commands that only read a config do not need it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    known = np.asarray(test_labels) >= 0
    if not known.any():
        raise ValueError("no test example is labelled, so there is no accuracy: use another split.")
    if any(len(np.unique(train_labels[rows])) < 2 for rows in draws):
        raise ValueError("the training labels hold fewer than two classes: nothing to tell apart.")
    scaler = StandardScaler().fit(train_features)
    test_x = scaler.transform(np.asarray(test_features, np.float64)[known])
    test_y = np.asarray(test_labels)[known]
    found = []
    for rows in draws:
        train_x = scaler.transform(train_features[rows].astype(np.float64))
        model = LogisticRegression(C=c, max_iter=10_000).fit(train_x, train_labels[rows])
        found.append(float(np.mean(model.predict(test_x) == test_y)))
    return found


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Returns the mean, and the standard deviation with divisor n - 1 (0 for one value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def draw_labels(labels: np.ndarray, *, labels_per_class: int, seed: int, draw: int) -> np.ndarray:
    """Draws `labels_per_class` examples of every class without replacement.

    Args:
      labels: int [N]; -1 is no class.
      labels_per_class: at least 1.
      seed, draw: non-negative; each pair gives an independent draw.

    Returns:
      The indices of the drawn examples, int64 [classes * labels_per_class], sorted.

    Raises:
      ValueError: a class has too few examples, there is no class, or labels_per_class < 1.
    """
    if labels_per_class < 1:
        raise ValueError(f"labels_per_class is {labels_per_class}: draw at least 1.")
    counts = _class_sizes(labels)
    for label, count in counts.items():
        if count < labels_per_class:
            raise ValueError(
                f"class {label} has {count} labelled examples, fewer than "
                f"labels_per_class={labels_per_class}: lower labels_per_class."
            )
    return _draw(labels, dict.fromkeys(counts, labels_per_class), seed=seed, draw=draw)


def draw_share(labels: np.ndarray, *, share: float, seed: int, draw: int = 0) -> np.ndarray:
    """Draws the same share of the examples of every class without replacement.

    From a class of n examples, round(share * n) are drawn, and at least one.

    Args:
      labels: int [N]; -1 is no class.
      share: more than 0; 1 = all labelled examples.
      seed, draw: non-negative; each pair gives an independent draw.

    Returns:
      The indices of the drawn examples, int64, sorted.

    Raises:
      ValueError: there is no class, or share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the labels is {share}: choose it above 0 and up to 1.")
    counts = {label: max(1, round(share * n)) for label, n in _class_sizes(labels).items()}
    return _draw(labels, counts, seed=seed, draw=draw)


def _class_sizes(labels: np.ndarray) -> dict[int, int]:
    """Returns {class: number of its examples}, or raises ValueError if there is no class."""
    labels = np.asarray(labels)
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if len(classes) == 0:
        raise ValueError("no example is labelled: use a labelled split.")
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def _draw(labels: np.ndarray, counts: Mapping[int, int], *, seed: int, draw: int) -> np.ndarray:
    """Draws so many examples of each class; returns their indices int64, sorted."""
    rng = np.random.default_rng((seed, draw))
    rows = [
        rng.choice(np.flatnonzero(np.asarray(labels) == label), count, replace=False)
        for label, count in counts.items()
    ]
    return np.sort(np.concatenate(rows))
