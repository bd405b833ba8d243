"""Transfers frozen features to other data sets: a logistic regression on each of them.

The protocol is that of Kornblith et al. (2019) and Chen et al. (2020), section B.8.1. There the
penalty is one of 45, chosen on the validation images of each data set; here it is one of 12, unless
`num_penalties` says otherwise, chosen on held-out training images.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from iecl_jax import console
from iecl_jax.config import section
from iecl_jax.config.evaluation import Images
from iecl_jax.config.rules import COUNT, FEW, INSIDE_SHARE, RANGE, Rule
from iecl_jax.config.section import Section, key
from iecl_jax.evals import linear
from iecl_jax.evals.measures import few_labels, logistic
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.run import markdown

RESULTS = {"transfer_score": "transfer by logistic regression, mean over data sets (%)"}
# Data sets of TFDS whose accuracy is by convention the mean over the classes (Kornblith et al.).
PER_CLASS = ("caltech101", "fgvc_aircraft", "oxford_flowers102", "oxford_iiit_pet")
_WORDS = Rule(
    lambda words: len(words) <= 1000 and all(isinstance(w, str) and w.split(":")[0] for w in words),
    "a tuple of words NAME or NAME:FOLDER, or ()",
)


class Grid(Section):
    """The penalties of a logistic regression, and how one of them is chosen."""

    penalties = key(
        (1e-6, 1e5), RANGE, "smallest and largest penalty of half the squared norm of the weights"
    )
    num_penalties = key(12, FEW, "number of penalties, evenly spaced in their logarithm")
    holdout = key(0.2, INSIDE_SHARE, "share of the training images held out to choose the penalty")


class Job(Grid):
    """The settings on a checkpoint."""

    datasets = key(
        (), _WORDS, "data sets, each a data.name or NAME:FOLDER; () = that of config.data"
    )
    draws = key(3, COUNT, "random draws of the held-out images, over which there is a mean")


class Settings(AtEnd, Job):
    """The settings during training."""


def penalties(settings: Any) -> list[float]:
    """Returns the penalties of a `Grid`."""
    smallest, largest = settings.penalties
    return np.geomspace(smallest, largest, settings.num_penalties).tolist()


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if a data set does not exist, has no labels, or nothing to hold out."""
    for name, each in subjects(subject, settings.datasets).items():
        with _naming(name if settings.datasets else ""):
            linear.check_holdout(each, "transfer")


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Transfers to each data set, and prints a table.

    Returns:
      {"transfer_score": the mean of the scores, in [0, 1]}, and {"transfer": {data set: {"score",
      "std", "top1", "mean_per_class", "penalty"}}}. The score is the mean of the per-class
      accuracies for the data sets of PER_CLASS and top-1 for others; "std" is its deviation over
      the draws, and "penalty" the one that most of them chose.
    """
    table = {}
    for name, each in subjects(subject, settings.datasets).items():
        per_class = each.config.data.name in PER_CLASS
        table[name] = _transfer(each, settings, per_class=per_class)
        if each is not subject:
            subject.work.images += each.work.images
    console.show(f"\n{_words(table, subject.seed)}\n")
    return {
        "transfer_score": float(np.mean([row["score"] for row in table.values()])),
        "transfer": table,
    }


def subjects(subject: Subject, words: tuple[str, ...]) -> dict[str, Subject]:
    """Returns the network with the images of each data set, by the name or, of several, the word.

    Args:
      subject: the network; its own images are those of an empty list.
      words: a `data.name` each, or NAME:FOLDER.

    Raises:
      ValueError: a data set is listed twice, does not exist, or does not fit.
    """
    if not words:
        return {subject.config.data.name: subject}
    found: dict[str, Subject] = {}
    names = [word.partition(":")[0] for word in words]
    for name, word in zip(names, words, strict=True):
        images = section.defaults(Images, {"name": name})
        folder = word.removeprefix(name).removeprefix(":")
        images.update({"name": name, "dir": folder, "cache": subject.config.data.cache})
        with _naming(word):
            each = subject.on(images)
        if any(each.encoder is other.encoder for other in found.values()):
            raise ValueError(f"transfer.datasets has {word!r} twice: take one out.")
        found[name if names.count(name) == 1 else word] = each
    return found


@contextlib.contextmanager
def _naming(word: str) -> Iterator[None]:
    """A context in which an error names the data set of the list, unless `word` is ""."""
    try:
        yield
    except ValueError as error:
        if not word:
            raise
        entry = f"transfer.datasets has {word!r}, a NAME or NAME:FOLDER"
        raise type(error)(f"{entry}: {error}") from error


def _transfer(subject: Subject, settings: Any, *, per_class: bool) -> dict[str, float]:
    """Returns the row of a data set; see `measure`."""
    features, labels = subject.features("train")
    test_features, test_labels = subject.features("test")
    with console.waiting(f"Training classifiers on {subject.config.data.name}"):
        chosen = [
            logistic.choose(
                *(features, labels),
                penalties=penalties(settings),
                holdout=settings.holdout,
                seed=(subject.seed, draw),
                per_class=per_class,
            ).penalty
            for draw in range(settings.draws)
        ]
        predicted = {
            penalty: logistic.train(features, labels, penalty=penalty).predict(test_features)
            for penalty in set(chosen)
        }
    scores = {
        each: [logistic.accuracy(predicted[p], test_labels, per_class=each) for p in chosen]
        for each in (False, True)
    }
    mean, std = few_labels.mean_and_std(scores[per_class])
    return {
        "score": mean,
        "std": std,
        "top1": float(np.mean(scores[False])),
        "mean_per_class": float(np.mean(scores[True])),
        "penalty": Counter(chosen).most_common(1)[0][0],
    }


def _words(table: Mapping[str, Mapping[str, float]], seed: int) -> str:
    """Returns the table as Markdown, under a title line."""
    rows = [
        [
            name,
            f"{100 * row['top1']:.1f}",
            f"{100 * row['mean_per_class']:.1f}",
            f"{100 * row['std']:.1f}",
            f"{row['penalty']:.1g}",
        ]
        for name, row in table.items()
    ]
    head = ["data set", "top-1 (%)", "mean per class (%)", "deviation over draws", "penalty"]
    return f"Transfer by logistic regression, seed {seed}\n\n{markdown.table(head, rows)}"
