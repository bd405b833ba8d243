"""What an evaluation looks at: a network at one moment, and the images it is judged on."""

import dataclasses
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from iecl_jax import data
from iecl_jax.config import section
from iecl_jax.evals.parts.encoder import Encode, SplitEncoder
from iecl_jax.methods import Method
from iecl_jax.train import state as train_state


@dataclasses.dataclass
class Work:
    """What an evaluation has done, for `results.json` of a job.

    Attributes:
      images: encoded or trained on.
      steps: of an optimizer.
      params: what it trained; None if nothing.
    """

    images: int = 0
    steps: int = 0
    params: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network, its data set, and features that all evaluations of one moment share.

    Attributes:
      config: the pretraining config that the network was made from.
      method: of that config.
      encoder: opens the splits of the data set and encodes them.
      run_dir: where an evaluation may leave files.
      seed: of whatever the evaluation draws.
      params, method_state: the network's weights; None before the training starts, when an
        evaluation checks its settings.
      work: what the evaluations have done so far.
    """

    config: ml_collections.ConfigDict
    method: Method
    encoder: SplitEncoder
    run_dir: str
    seed: int
    params: Any = None
    method_state: Any = None
    work: Work = dataclasses.field(default_factory=Work, init=False)
    _features: dict[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict, init=False
    )

    def at(self, params: Any, method_state: Any) -> "Subject":
        """The same with other weights, and no features yet."""
        return dataclasses.replace(self, params=params, method_state=method_state)

    def untrained(self) -> "Subject":
        """The same with the weights that training starts from."""
        size = self.config.data.image_size
        images = self.config.saib.group_size if self.config.saib.enabled else 2
        state = train_state.create(
            jax.random.split(jax.random.key(self.config.seed))[0],
            method=self.method,
            tx=optax.identity(),
            view_shape=(images, size, size, 3),
            num_classes=0,
            dynamic_scale=False,
        )
        return self.at(state.params, state.method_state)

    @property
    def num_classes(self) -> int:
        """Classes of the labels; raises `encoder.Unlabelled` where there are none."""
        return self.encoder.labelled("train").num_classes

    def split(self, name: str) -> data.Split:
        """The split "pretrain", "train" or "test"; ValueError where the data set has none."""
        return self.encoder.split(name)

    def labels(self, name: str) -> np.ndarray:
        """int32 [N], -1 = unlabelled, of the split "train" or "test"; reads no image.

        Raises:
          encoder.Unlabelled: there is no such split, or it has no labels.
        """
        return self.encoder.labelled(name).labels

    def features(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features float32 [N, F] and labels int32 [N] of "train" or "test".

        They are computed at the first call, of unaugmented images by the anchor's encoder. A file
        that is broken gives its place to the next one, with that one's label.

        Raises:
          encoder.Unlabelled: there is no such split, or it has no labels.
        """
        if name not in self._features:
            encode = self.encoder.bind(self.params, self.method_state)
            self._features[name] = self.encode(encode, name)
        return self._features[name]

    def encode(self, encode: Encode, name: str) -> tuple[np.ndarray, np.ndarray]:
        """`features`, but computed by `encode` (images uint8 [b, H, W, 3] -> [b, F])."""
        encoded = self.encoder.extract(encode, name)
        self.work.images += len(encoded[0])
        return encoded

    def settings(self, name: str, declared: type[section.Section]) -> ml_collections.ConfigDict:
        """The settings that the pretraining has for an evaluation, or those `declared`."""
        return self.config.eval.get(name) or section.defaults(declared)
