"""Trains logistic regressions on the features of a small share of the labels.

1 % and 10 % of the labels are the shares of Chen et al. (2020), section B.5. There the whole
network is trained further, as `finetune` does; here the encoder stays as it is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import COUNT, POSITIVE, Rule
from iecl_jax.config.section import Section, key
from iecl_jax.data import label_list
from iecl_jax.evals.measures import few_labels
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.run import markdown

RESULTS = {
    "few_labels_1_top1": "logistic regression on 1 % of the labels, top-1 (%)",
    "few_labels_10_top1": "logistic regression on 10 % of the labels, top-1 (%)",
    "few_labels_list_top1": "logistic regression on the listed labels, top-1 (%)",
}
_LIST = "few_labels.list"
_SHARES = Rule(
    lambda shares: 0 < len(shares) <= 100 and all(0 < share <= 1 for share in shares),
    "one share or more, above 0 and up to 1",
)


class Job(Section):
    """The settings on a checkpoint."""

    shares = key((0.01, 0.1), _SHARES, "shares of each class that have a label, at least an image")
    draws = key(5, COUNT, "random draws of each share, over which there is a mean")
    list = key(
        "", None, "text file with the names of the labelled images, in the place of random draws"
    )
    c = key(1.0, POSITIVE, "weight of the sum of the losses beside half the squared norm")


class Settings(AtEnd, Job):
    """The settings during training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if there are no labels, or the list does not fit the images."""
    labels = subject.labels("train")
    subject.labels("test")
    if settings.list and len(np.unique(labels[_listed(subject, settings)])) < 2:
        raise ValueError(f"{_LIST}={settings.list!r} names images of one class: name more.")


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Returns the accuracy of each share, and prints a table of them.

    Returns:
      {"few_labels_P_top1": the mean over the draws, in [0, 1]} for each share of P percent, or
      "few_labels_list_top1"; and {"few_labels": {words: {"images", "top1", "std"}}} of each.
    """
    labels = subject.features("train")[1]
    if settings.list:
        draws = {"list": [_listed(subject, settings)]}
    else:
        draws = {
            f"{100 * share:g}": [
                few_labels.draw_share(labels, share=share, seed=subject.seed, draw=draw)
                for draw in range(settings.draws)
            ]
            for share in settings.shares
        }
    images = (*subject.features("train"), *subject.features("test"))
    table = {}
    for name, rows in draws.items():
        mean, std = few_labels.mean_and_std(few_labels.accuracies(*images, rows, c=settings.c))
        table[name] = {"images": len(rows[0]), "top1": mean, "std": std}
    console.show(f"\n{_words(table, subject)}\n")
    scores = {f"few_labels_{name}_top1": row["top1"] for name, row in table.items()}
    return scores | {"few_labels": table}


def _listed(subject: Subject, settings: Any) -> np.ndarray:
    return label_list.places(subject.split("train"), _LIST, settings.list)


def _words(table: Mapping[str, Mapping[str, float]], subject: Subject) -> str:
    """Returns the table as Markdown, under a title line."""
    rows = [
        [
            name if name == "list" else f"{name} %",
            f"{row['images']:,}",
            f"{100 * row['top1']:.1f} ± {100 * row['std']:.1f}",
        ]
        for name, row in table.items()
    ]
    title = (
        f"{subject.config.data.name}, seed {subject.seed}: test accuracy of logistic regression "
        "(mean ± deviation over draws)"
    )
    return f"{title}\n\n{markdown.table(['labels', 'images', 'top-1 (%)'], rows)}"
