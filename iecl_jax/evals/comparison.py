"""Is a representation better than no learning? One table for several of them on the same images."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from iecl_jax.config.rules import COUNT, COUNT_OR_NONE
from iecl_jax.config.section import Section, key
from iecl_jax.evals import knn as knn_evaluation
from iecl_jax.evals.measures import few_labels, knn
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.run import markdown

Array = jax.Array | np.ndarray
RESULTS: dict[str, str] = {}  # a table, which it prints itself


class Settings(AtEnd):
    """During training."""

    labels_per_class = key(0, COUNT_OR_NONE, "labels of the linear classifier; 0 = no table")


class Job(Section):
    """Of a checkpoint."""

    labels_per_class = key(10, COUNT, "labels of the linear classifier")


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError where a class has fewer labelled training images."""
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
    """{"comparison": {representation: scores}} of raw pixels, the untrained encoder and the trained
    one, printed as a table; {} when off. See `compare`."""
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
    print(f"\n{format_table(scores, title)}", flush=True)
    return {"comparison": scores}


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, C] as features: float32 [N, H*W*C] in [0, 1]."""
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
    """Few-label linear accuracy and kNN accuracy of each representation.

    Args:
      representations: name, such as "raw pixels", -> (train float [N, F], test float [M, F]); F may
        differ between names, the images and their order may not.
      train_labels, test_labels: int [N] and [M], -1 where unknown; kNN's bank is all of the
        labelled training set.
      labels_per_class, seed: of `few_labels.few_label_accuracy`.
      knn_k, knn_temperature, num_classes: of `knn.knn_accuracy`.

    Returns:
      name -> {"linear_few_mean", "linear_few_std", "knn_top1"}, in the order given, each in [0, 1].

    Raises:
      ValueError: features and labels differ in number; and those of the two evaluations.
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
    """The result of `compare` as a Markdown table under a title line, in percent."""
    rows = []
    for name, score in result.items():
        mean, std, top1 = (
            100 * score[key] for key in ("linear_few_mean", "linear_few_std", "knn_top1")
        )
        rows.append([name, f"{mean:.1f} ± {std:.1f}", f"{top1:.1f}"])
    titles = ["representation", "few labels, linear (%)", "all labels, kNN (%)"]
    return f"{title}\n\n{markdown.table(titles, rows)}"
