"""Clusters the features of the test images without labels, and compares clusters and classes.

This is k-means with as many clusters as classes, the baseline of Van Gansbeke et al. (2020), "SCAN:
Learning to Classify Images without Labels", with their measures.
"""

from typing import Any

import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import COUNT
from iecl_jax.config.section import Section, key
from iecl_jax.evals.measures import clustering, few_labels
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject

RESULTS = {
    "clustering_accuracy": "k-means, accuracy of the best matching (%)",
    "clustering_nmi": "k-means, normalised mutual information",
    "clustering_ari": "k-means, adjusted Rand index",
}


class Job(Section):
    """The settings on a checkpoint."""

    runs = key(5, COUNT, "runs of k-means with seeds of their own, over which there is a mean")
    starts = key(10, COUNT, "starts of a run, of which the one with the smallest distances counts")


class Settings(AtEnd, Job):
    """The settings during training."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if there are fewer labelled test images than classes."""
    labelled, classes = int((subject.labels("test") >= 0).sum()), subject.num_classes
    if labelled < classes:
        raise ValueError(
            f"clustering needs as many test images as clusters, and {subject.config.data.name} has "
            f"{labelled} labelled ones of {classes} classes: use other images."
        )


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Returns the means of RESULTS over the runs, and {"clustering_std": {measure: deviation}}."""
    features, labels = subject.features("test")
    features, labels = features[labels >= 0], labels[labels >= 0]
    found = []
    seeds = np.random.SeedSequence(subject.seed).generate_state(settings.runs)
    with console.waiting(f"Clustering {len(labels):,} images"):
        for seed in seeds:
            clusters = clustering.k_means(
                features, subject.num_classes, seed=int(seed), starts=settings.starts
            )
            found.append(clustering.agreement(clusters, labels))
    spread = {name: few_labels.mean_and_std([each[name] for each in found]) for name in found[0]}
    return {
        **{f"clustering_{name}": mean for name, (mean, _) in spread.items()},
        "clustering_std": {name: std for name, (_, std) in spread.items()},
    }
