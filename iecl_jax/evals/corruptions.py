"""Measures the robustness of frozen features to common corruptions of the test images.

A logistic regression is trained on the features of the clean training images, and tested on those
of corrupted test images (Hendrycks and Dietterich 2019; see `measures.corruptions`).
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import COUNT_OR_NONE, Rule
from iecl_jax.config.section import key
from iecl_jax.evals import linear, transfer
from iecl_jax.evals.measures import corruptions, logistic
from iecl_jax.evals.parts.encoder import Encode
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.run import markdown

RESULTS = {
    "corruptions_clean_top1": "clean test images, top-1 (%)",
    "corruptions_top1": "corrupted test images, mean top-1 (%)",
}
_OPERATORS = Rule(
    lambda names: 0 < len(names) == len({*names}) and set(names) <= {*corruptions.OPERATORS},
    f"different words of {', '.join(corruptions.OPERATORS)}",
)


class Job(transfer.Grid):
    """The settings on a checkpoint."""

    operators = key(corruptions.OPERATORS, _OPERATORS, "corruptions to test")
    num_images = key(2000, COUNT_OR_NONE, "test images, drawn by the seed; 0 = all")


class Settings(AtEnd, Job):
    """The settings during training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if there are no labels, or nothing to hold out."""
    linear.check_holdout(subject, "corruptions")


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Tests on each operator at each strength, and prints a table.

    Returns:
      {"corruptions_clean_top1", "corruptions_top1": the mean over operators and strengths}, both in
      [0, 1], and {"corruptions": {operator: {"1" to "5": top-1, "mean"}}}.
    """
    features, labels = subject.features("train")
    with console.waiting("Training a classifier on clean images"):
        choice = logistic.choose(
            *(features, labels),
            penalties=transfer.penalties(settings),
            holdout=settings.holdout,
            seed=subject.seed,
        )
        classifier = logistic.train(features, labels, penalty=choice.penalty)
    split = subject.split("test")
    order = np.random.default_rng(subject.seed).permutation(len(split))
    drawn = np.sort(order[: settings.num_images or len(split)])
    encode = subject.encoder.bind(subject.params, subject.method_state)

    def top1(changed: Encode) -> float:
        found, known = subject.encoder.extract(changed, split, drawn)
        subject.work.images += len(found)
        return logistic.accuracy(classifier.predict(found), known)

    clean, table = top1(encode), {}
    with ThreadPoolExecutor(subject.config.data.num_threads) as pool:
        for operator in settings.operators:
            row = {
                str(level): top1(_corrupted(encode, operator, level, subject.seed, pool))
                for level in range(1, corruptions.LEVELS + 1)
            }
            table[operator] = row | {"mean": float(np.mean([*row.values()]))}
    console.show(f"\n{_words(table, clean, subject, len(drawn))}\n")
    return {
        "corruptions_clean_top1": clean,
        "corruptions_top1": float(np.mean([row["mean"] for row in table.values()])),
        "corruptions": table,
    }


def _corrupted(
    encode: Encode, operator: str, level: int, seed: int, pool: ThreadPoolExecutor
) -> Encode:
    """Returns `encode` of images that are corrupted first."""

    def corrupt(image: np.ndarray) -> np.ndarray:
        return corruptions.corrupt(image, operator, level, seed=seed)

    return lambda images: encode(np.stack([*pool.map(corrupt, images)]))


def _words(
    table: Mapping[str, Mapping[str, float]], clean: float, subject: Subject, images: int
) -> str:
    """Returns the table as Markdown, under a title line."""
    rows = [
        [name, *(f"{100 * score:.1f}" for score in row.values())] for name, row in table.items()
    ]
    title = (
        f"{subject.config.data.name}, seed {subject.seed}: top-1 (%) on {images:,} corrupted test "
        f"images by strength; {100 * clean:.1f} on clean ones"
    )
    head = ["corruption", *map(str, range(1, corruptions.LEVELS + 1)), "mean"]
    return f"{title}\n\n{markdown.table(head, rows)}"
