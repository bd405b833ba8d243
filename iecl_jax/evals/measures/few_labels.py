"""Logistic regression on a few randomly drawn labels of each class."""

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

    Features are standardised by the mean and standard deviation of all training features, which
    needs no labels. The regression is scikit-learn's with C = 1, run to convergence. The draws only
    depend on train_labels and seed, so different representations of the same images are compared on
    the same draws.

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
    # Imported here, since it takes a second: commands that only read a config do not need it.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}: make at least 1.")
    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    known = np.asarray(test_labels) >= 0
    if not known.any():
        raise ValueError("no test example is labelled, so there is no accuracy: use another split.")
    if len(np.unique(train_labels[train_labels >= 0])) < 2:
        raise ValueError("the training labels hold fewer than two classes: nothing to tell apart.")
    scaler = StandardScaler().fit(train_features)
    test_x = scaler.transform(np.asarray(test_features, np.float64)[known])
    test_y = np.asarray(test_labels)[known]
    accuracies = []
    for draw in range(num_draws):
        rows = draw_labels(train_labels, labels_per_class=labels_per_class, seed=seed, draw=draw)
        train_x = scaler.transform(train_features[rows].astype(np.float64))
        model = LogisticRegression(C=1.0, max_iter=10_000).fit(train_x, train_labels[rows])
        accuracies.append(np.mean(model.predict(test_x) == test_y))
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if num_draws > 1 else 0.0


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
    labels = np.asarray(labels)
    classes = np.unique(labels[labels >= 0])
    if len(classes) == 0:
        raise ValueError("no example is labelled: use a labelled split.")
    rng = np.random.default_rng((seed, draw))
    rows = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        if len(members) < labels_per_class:
            raise ValueError(
                f"class {label} has {len(members)} labelled examples, fewer than "
                f"labels_per_class={labels_per_class}: lower labels_per_class."
            )
        rows.append(rng.choice(members, labels_per_class, replace=False))
    return np.sort(np.concatenate(rows))


def draw_share(labels: np.ndarray, *, share: float, seed: int, draw: int = 0) -> np.ndarray:
    """Draws a share of the examples of every class without replacement, at least one of each.

    Args:
      labels: int [N]; -1 is no class.
      share: more than 0, at most 1; of n examples of a class, round(share * n) are drawn.
      seed, draw: non-negative; each pair gives an independent draw.

    Returns:
      The indices of the drawn examples, int64, sorted.

    Raises:
      ValueError: share is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of the labels is {share}: take more than 0 and at most 1.")
    labels = np.asarray(labels)
    rng = np.random.default_rng((seed, draw))
    rows = [np.empty(0, np.int64)]
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        rows.append(rng.permutation(members)[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(rows))
