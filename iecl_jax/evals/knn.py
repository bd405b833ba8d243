"""Measures weighted k-nearest-neighbour accuracy on the test split (Wu et al. 2018)."""

from typing import Any

from iecl_jax.config.rules import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, POSITIVE
from iecl_jax.config.section import Section, key
from iecl_jax.evals.measures import knn
from iecl_jax.evals.parts.schedule import Every
from iecl_jax.evals.parts.subject import Subject

RESULTS = {"knn_top1": "kNN, top-1 (%)"}
SEEDED = False


class Settings(Every):
    """The settings during training."""

    k = key(20, COUNT, "number of neighbours")
    temperature = key(0.07, POSITIVE, "weights are exp(cosine / temperature)")


class Job(Section):
    """The settings on a checkpoint."""

    k = key(0, COUNT_OR_NONE, "number of neighbours; 0 = as during pretraining")
    temperature = key(
        0.0, NOT_NEGATIVE, "weights are exp(cosine / temperature); 0 = as during pretraining"
    )


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if there are fewer labelled training images than neighbours."""
    labelled, k = (subject.labels("train") >= 0).sum(), _asked(subject, settings)["k"]
    subject.labels("test")
    if k > labelled:
        raise ValueError(
            f"knn.k={k} is more than the {labelled} labelled training images of "
            f"{subject.config.data.name}: lower it."
        )


def measure(subject: Subject, settings: Any) -> dict[str, float]:
    """Returns {"knn_top1"} in [0, 1]; the neighbours are the labelled training images."""
    features, labels = subject.features("test")
    subject.work.predicted = knn.knn_predict(
        *subject.features("train"),
        features,
        num_classes=subject.num_classes,
        **_asked(subject, settings),
    )
    return {"knn_top1": knn.share_right(subject.work.predicted, labels)}


def _asked(subject: Subject, settings: Any) -> dict[str, Any]:
    pretrained = subject.settings("knn", Settings)
    return {name: settings[name] or pretrained[name] for name in ("k", "temperature")}
