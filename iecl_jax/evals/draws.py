"""Seeded, stratified choices of examples: the same whichever features are evaluated."""

import numpy as np


def few_labels(labels: np.ndarray, *, labels_per_class: int, seed: int, draw: int) -> np.ndarray:
    """Draw number `draw` of `labels_per_class` examples of every class, without replacement.

    Args:
      labels: int [N]; -1 is no class.
      labels_per_class: at least 1.
      seed, draw: non-negative; another draw of the same seed is an independent choice.

    Returns:
      Rows, int64 [classes * labels_per_class], sorted.

    Raises:
      ValueError: a class has too few examples, there is no class, or labels_per_class < 1.
    """
    if labels_per_class < 1:
        raise ValueError(f"labels_per_class is {labels_per_class}: draw at least 1.")
    rng = np.random.default_rng((seed, draw))
    rows = []
    for label, members in _members(labels):
        if len(members) < labels_per_class:
            raise ValueError(
                f"class {label} has {len(members)} labelled examples, fewer than "
                f"labels_per_class={labels_per_class}: lower labels_per_class."
            )
        rows.append(rng.choice(members, labels_per_class, replace=False))
    return np.sort(np.concatenate(rows))


def split_holdout(labels: np.ndarray, *, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits the labelled examples in two, each class in the same proportion.

    Of a class with n > 1 examples, round(share * n) but at least 1 and at most n - 1 are held out;
    a class with one example keeps it.

    Args:
      labels: int [N]; rows labelled -1 are in neither part.
      share: between 0 and 1, exclusive.
      seed: non-negative.

    Returns:
      (rows kept, rows held out), int64, sorted.

    Raises:
      ValueError: share is out of range, or no class has two examples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share is {share}: choose it between 0 and 1, such as 0.1.")
    rng = np.random.default_rng(seed)
    kept, held = [], []
    for _, members in _members(labels):
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        members = rng.permutation(members)
        held.append(members[:count])
        kept.append(members[count:])
    held_rows = np.concatenate(held)
    if len(held_rows) == 0:
        raise ValueError("no class has two labelled examples, so none can be held out: add some.")
    return np.sort(np.concatenate(kept)), np.sort(held_rows)


def _members(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(class, rows of its examples) of each class, in order; ValueError if there is none."""
    labels = np.asarray(labels)
    classes = np.unique(labels[labels >= 0])
    if len(classes) == 0:
        raise ValueError("no example is labelled: use a labelled split.")
    return [(int(c), np.flatnonzero(labels == c)) for c in classes]
