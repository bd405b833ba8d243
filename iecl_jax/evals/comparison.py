"""Compares the trained encoder with raw pixels and an untrained encoder, on the same images."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import COUNT, COUNT_OR_NONE
from iecl_jax.config.section import Section, key
from iecl_jax.evals import knn as knn_evaluation
from iecl_jax.evals.measures import few_labels, knn
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.run import markdown

Array = jax.Array | np.ndarray
RESULTS: dict[str, str] = {}  # `measure` prints its table itself.


class Settings(AtEnd):
    """The settings during training."""

    labels_per_class = key(
        0, COUNT_OR_NONE, "labels that the linear classifier gets; 0 = no comparison"
    )


class Job(Section):
    """The settings on a checkpoint."""

    labels_per_class = key(10, COUNT, "labels that the linear classifier gets")


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if a class has fewer labelled training images than `labels_per_class`."""
    if not settings.labels_per_class:
        return
    labels = subject.labels("train")
    subject.labels("test")
    smallest = np.bincount(labels[labels >= 0], minlength=subject.num_classes).min()
    if settings.labels_per_class > smallest:
        raise ValueError(
            f"comparison.labels_per_class={settings.labels_per_class} is more than the smallest "
            f"class of {subject.config.data.name}, {smallest}: lower it."
        )
    knn_evaluation.check(subject, subject.settings("knn", knn_evaluation.Settings))


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Compares raw pixels, the untrained encoder and the trained encoder, and prints a table.

    Returns:
      {"comparison": {representation: scores}}, see `compare`; {} if `labels_per_class` is 0.
    """
    if not settings.labels_per_class:
        return {}
    features: dict[str, Callable[[str], tuple[np.ndarray, np.ndarray]]] = {
        "raw pixels": functools.partial(subject.encode, raw_pixels),
        "untrained encoder": subject.untrained().features,
        "trained encoder": subject.features,
    }
    nearest = subject.settings("knn", knn_evaluation.Settings)
    scores = compare(
        {name: (of("train")[0], of("test")[0]) for name, of in features.items()},
        subject.features("train")[1],
        subject.features("test")[1],
        labels_per_class=settings.labels_per_class,
        seed=subject.seed,
        knn_k=nearest.k,
        knn_temperature=nearest.temperature,
        num_classes=subject.num_classes,
    )
    title = (
        f"{subject.config.data.name}, seed {subject.seed}: test accuracy with "
        f"{settings.labels_per_class} labels a class (mean ± deviation over draws of them)"
    )
    console.show(f"\n{format_table(scores, title)}")
    return {"comparison": scores}


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] as features float32 [N, H*W*C] in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def compare(
    representations: Mapping[str, tuple[Array, Array]],
    train_labels: Array,
    test_labels: Array,
    *,
    labels_per_class: int,
    seed: int,
    knn_k: int,
    knn_temperature: float,
    num_classes: int,
) -> dict[str, dict[str, float]]:
    """Returns the few-label linear accuracy and the kNN accuracy of each representation.

    Args:
      representations: name, such as "raw pixels", -> (train float [N, F], test float [M, F]). F may
        differ between representations; the images and their order must be the same.
      train_labels, test_labels: int [N] and [M], -1 where unknown. kNN uses all labelled training
        images.
      labels_per_class, seed: see `few_labels.few_label_accuracy`.
      knn_k, knn_temperature, num_classes: see `knn.knn_accuracy`.

    Returns:
      {name: {"linear_few_mean", "linear_few_std", "knn_top1"}} in the given order, each score in
      [0, 1].

    Raises:
      ValueError: features and labels differ in number, or one of the two evaluations raises it.
    """
    result = {}
    for name, (train, test) in representations.items():
        if len(train) != len(train_labels) or len(test) != len(test_labels):
            raise ValueError(
                f"{name!r} has {len(train)} training and {len(test)} test features for "
                f"{len(train_labels)} and {len(test_labels)} labels: encode the same images."
            )
        mean, std = few_labels.few_label_accuracy(
            train, train_labels, test, test_labels, labels_per_class=labels_per_class, seed=seed
        )
        top1 = knn.knn_accuracy(
            train,
            train_labels,
            test,
            test_labels,
            k=knn_k,
            temperature=knn_temperature,
            num_classes=num_classes,
        )
        result[name] = {"linear_few_mean": mean, "linear_few_std": std, "knn_top1": top1}
    return result


def format_table(result: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Returns the result of `compare` as a Markdown table in percent, under a title line."""
    rows = []
    for name, score in result.items():
        mean, std, top1 = (
            100 * score[key] for key in ("linear_few_mean", "linear_few_std", "knn_top1")
        )
        rows.append([name, f"{mean:.1f} ± {std:.1f}", f"{top1:.1f}"])
    titles = ["representation", "few labels, linear (%)", "all labels, kNN (%)"]
    return f"{title}\n\n{markdown.table(titles, rows)}"
