"""Trains a linear classifier on fixed features; chooses its learning rate on held-out images."""

from typing import Any

import numpy as np

from iecl_jax.config.rules import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_NONE,
    INSIDE_SHARE,
    NOT_NEGATIVE,
    RATES,
)
from iecl_jax.config.section import Section, key
from iecl_jax.evals.measures import linear_probe, probe_grid
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject

RESULTS = {
    "linear_top1": "linear classifier, top-1 (%)",
    "linear_top5": "linear classifier, top-5 (%)",
}


class Grid(Section):
    """The training of the grid. `num_epochs` is not here, since its default differs by user."""

    learning_rates = key(
        (0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        RATES,
        "learning rates to choose from; each falls to 0 on a cosine",
    )
    batch_size = key(512, COUNT, "images per step")
    momentum = key(0.9, BELOW_ONE, "momentum of SGD")
    weight_decay = key(1e-5, NOT_NEGATIVE, "weight decay of the kernel; the bias has none")
    holdout = key(
        0.1, INSIDE_SHARE, "share of the training images held out to choose the learning rate"
    )


class Settings(AtEnd, Grid):
    """The settings during training."""

    num_epochs = key(0, COUNT_OR_NONE, "passes over the training features; 0 = no classifier")


class Job(Grid):
    """The settings on a checkpoint."""

    num_epochs = key(20, COUNT, "passes over the training features")


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if no image can be held out."""
    if settings.num_epochs:
        check_holdout(subject, f"linear.num_epochs={settings.num_epochs}")


def check_holdout(subject: Subject, setting: str) -> None:
    """Raises ValueError, with a message that starts with `setting`, if no class has two labels."""
    labels = subject.labels("train")
    subject.labels("test")
    if np.bincount(labels[labels >= 0]).max() < 2:
        raise ValueError(
            f"{setting} needs a class of two labelled images or more in "
            f"{subject.config.data.name}: do without."
        )


def measure(subject: Subject, settings: Any) -> dict[str, float]:
    """Returns {"linear_top1"} in [0, 1], and "linear_top5" if there are more than five classes.

    Returns {} if `num_epochs` is 0.
    """
    if not settings.num_epochs:
        return {}
    scores = grid(subject, settings, feature_norm="layer_norm")
    return {name: scores[name] for name in RESULTS if name in scores}


def grid(subject: Subject, settings: Any, *, feature_norm: str) -> dict[str, Any]:
    """Trains and tests a grid of classifiers on features of unaugmented images.

    Args:
      subject: the network and its data set.
      settings: the keys of `Grid`, and "num_epochs".
      feature_norm: see `linear_probe.normalize_features`.

    Returns:
      {"best_learning_rate", "holdout_accuracy", "linear_top1"}, and "linear_top5" if there are more
      than five classes; see `probe_grid.choose_and_test`.
    """
    train, train_labels = subject.features("train")
    test, test_labels = subject.features("test")
    scores = probe_grid.choose_and_test(
        np.asarray(linear_probe.normalize_features(train, feature_norm)),
        train_labels,
        np.asarray(linear_probe.normalize_features(test, feature_norm)),
        test_labels,
        learning_rates=tuple(settings.learning_rates),
        num_classes=subject.num_classes,
        num_epochs=settings.num_epochs,
        batch_size=settings.batch_size,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        seed=subject.seed,
        holdout=settings.holdout,
    )
    subject.work.steps = settings.num_epochs * (len(train) // settings.batch_size)
    subject.work.images = subject.work.steps * settings.batch_size
    return {name.replace("test_top", "linear_top"): score for name, score in scores.items()}
