"""Measures the test accuracy of the linear classifier that is trained along with the encoder."""

from typing import Any

import jax

from iecl_jax.evals.measures import linear_probe
from iecl_jax.evals.parts.encoder import Unlabelled
from iecl_jax.evals.parts.schedule import Every
from iecl_jax.evals.parts.subject import Subject

RESULTS = {"online_probe_top1": "online probe, top-1 (%)"}
SEEDED = False


class Settings(Every):
    """The settings: only when to evaluate."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if the labelled images or the probe are missing."""
    for split in ("train", "test"):
        subject.labels(split)
    if subject.params is not None and "online_probe" not in subject.params:
        raise Unlabelled("the network was trained without labels: it has no online probe.")


def measure(subject: Subject, settings: Any) -> dict[str, float]:
    """Returns {"online_probe_top1"} in [0, 1]."""
    probe = jax.tree.map(lambda leaf: leaf[None], jax.device_get(subject.params["online_probe"]))
    features, labels = subject.features("test")
    normalized = linear_probe.normalize_features(features, "layer_norm")
    return {"online_probe_top1": float(linear_probe.grid_accuracy(probe, normalized, labels)[0])}
