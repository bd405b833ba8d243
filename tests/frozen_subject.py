"""A subject of given features, for tests of the evaluations that only read features and labels."""

import dataclasses
from typing import Any

import ml_collections
import numpy as np

from iecl_jax.config import section
from iecl_jax.data import Split
from iecl_jax.data.split import Record
from iecl_jax.evals.parts.encoder import Unlabelled
from iecl_jax.evals.parts.subject import Work

Features = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass
class FrozenSubject:
    """Has what `evals.parts.subject.Subject` has, of features [N, F] and labels [N] of two splits.

    The image of a split is named by its place: "train/cls1/7.png".
    """

    train: Features
    test: Features
    seed: int = 0
    config: Any = dataclasses.field(
        default_factory=lambda: ml_collections.ConfigDict({"data": {"name": "clusters"}})
    )
    work: Work = dataclasses.field(default_factory=Work)

    @property
    def num_classes(self) -> int:
        return int(self.train[1].max()) + 1

    def features(self, name: str) -> Features:
        return getattr(self, name)

    def labels(self, name: str) -> np.ndarray:
        labels = self.features(name)[1]
        if (labels < 0).all():
            raise Unlabelled(f"the {name} images of clusters have no labels.")
        return labels

    def split(self, name: str) -> Split:
        labels = self.features(name)[1]

        def read(indices):
            pixels = np.zeros((2, 2, 3), np.uint8)
            return [
                Record(pixels, int(labels[i]), f"{name}/cls{labels[i]}/{i}.png") for i in indices
            ]

        names = tuple(f"cls{label}" for label in range(self.num_classes))
        return Split(f"{name} of clusters", names, (2, 2), len(labels), read, lambda: labels)


def settings(module: Any, **changes: Any) -> Any:
    """The settings of an evaluation's job, with changes."""
    found = section.defaults(module.Job)
    found.update(changes)
    return found
