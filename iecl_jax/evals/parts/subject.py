"""The subject of an evaluation: a network with fixed weights, and its data set."""

import dataclasses
from typing import Any, NamedTuple

import ml_collections
import numpy as np
import optax

from iecl_jax import data
from iecl_jax.config import section
from iecl_jax.evals.parts.encoder import Encode, SplitEncoder
from iecl_jax.evals.parts.images import with_images
from iecl_jax.methods import Method
from iecl_jax.train import starting
from iecl_jax.train import state as train_state


@dataclasses.dataclass
class Work:
    """The work of the evaluations: for the `results.json` of a job, and for the pictures.

    Attributes:
      images: number of images encoded or trained on.
      steps: number of optimizer steps.
      seconds: wall time of earlier starts, whose work counts too.
      params: the parameters that the evaluation trained; None if it trained nothing.
      predicted: the classes int32 [N] that kNN predicted for the test images; None if it did not.
    """

    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    params: Any = None
    predicted: np.ndarray | None = None


class Sample(NamedTuple):
    """Images of a split with their features.

    Attributes:
      split: the split.
      indices: int [n], which of its images.
      features: float32 [n, F], pooled features.
      labels: int32 [n], -1 = unlabelled.
    """

    split: data.Split
    indices: np.ndarray
    features: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A network, its data set, and its features, which the evaluations of one step share.

    Attributes:
      config: the pretraining config of the network; its `data` is that of the images here.
      method: the method of that config.
      encoder: opens the splits of the data set and encodes them.
      run_dir: folder to which an evaluation may write files.
      seed: seed for everything random in an evaluation.
      params, method_state: the network's weights; None before the training starts, when the
        evaluations check their settings.
      allow_change: whether an evaluation that resumes may have other images than it began with.
      own_data: the settings of the images that a job has of its own; None if it has none.
      work: the work of the evaluations so far.
    """

    config: ml_collections.ConfigDict
    method: Method
    encoder: SplitEncoder
    run_dir: str
    seed: int
    params: Any = None
    method_state: Any = None
    allow_change: bool = False
    own_data: ml_collections.ConfigDict | None = None
    work: Work = dataclasses.field(default_factory=Work, init=False)
    _features: dict[str, tuple[np.ndarray, np.ndarray]] = dataclasses.field(
        default_factory=dict, init=False
    )
    _samples: dict[str, Sample] = dataclasses.field(default_factory=dict, init=False)

    def at(self, params: Any, method_state: Any) -> "Subject":
        """Returns a Subject with other weights, whose features are not computed yet."""
        return dataclasses.replace(self, params=params, method_state=method_state)

    def on(self, images: ml_collections.ConfigDict) -> "Subject":
        """Returns the same network with other images; see `images.with_images` for the argument."""
        config = with_images(self.config, images)
        return dataclasses.replace(self, config=config, encoder=self.encoder.on(config))

    def untrained(self) -> "Subject":
        """Returns a Subject with the initial weights of the training."""
        size = self.config.data.image_size
        images = self.config.saib.group_size if self.config.saib.enabled else 2
        program = train_state.initial(
            method=self.method,
            tx=optax.identity(),
            view_shape=(images, size, size, 3),
            num_classes=0,
            dynamic_scale=False,
        )
        state = train_state.create(program, self.config.seed)
        state = starting.put(state, starting.read(self.config))
        return self.at(state.params, state.method_state)

    @property
    def num_classes(self) -> int:
        """The number of classes; raises `encoder.Unlabelled` if there are no labels."""
        return self.encoder.labelled("train").num_classes

    def split(self, name: str) -> data.Split:
        """Returns the split "pretrain", "train" or "test"; raises ValueError if there is none."""
        return self.encoder.split(name)

    def labels(self, name: str) -> np.ndarray:
        """Returns the labels int32 [N] of "train" or "test", -1 = unlabelled. Reads no images.

        Raises:
          encoder.Unlabelled: there is no such split, or it has no labels.
        """
        return self.encoder.labelled(name).labels

    def features(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns pooled features float32 [N, F] and labels int32 [N] of "train" or "test".

        The first call computes them, with the online encoder, from unaugmented images. The next
        image, with its label, replaces an image whose file is broken.

        Raises:
          encoder.Unlabelled: there is no such split, or it has no labels.
        """
        if name not in self._features:
            encode = self.encoder.bind(self.params, self.method_state)
            self._features[name] = self.encode(encode, name)
        return self._features[name]

    def encode(self, encode: Encode, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `features` does, but with `encode` (images uint8 [b, H, W, 3] -> [b, F])."""
        encoded = self.encoder.extract(encode, self.encoder.labelled(name))
        self.work.images += len(encoded[0])
        return encoded

    def sample(self, name: str, most: int) -> Sample:
        """Returns images of a split, labelled or not, with their features.

        They are all images if an evaluation computed their features; otherwise `most` images at
        most, drawn by the seed, whose features the first call computes.

        Raises:
          ValueError: there is no such split.
        """
        split = self.split(name)
        if name in self._features:
            return Sample(split, np.arange(len(split)), *self._features[name])
        if name not in self._samples:
            drawn = np.sort(np.random.default_rng(self.seed).permutation(len(split))[:most])
            encode = self.encoder.bind(self.params, self.method_state)
            self._samples[name] = Sample(split, drawn, *self.encoder.extract(encode, split, drawn))
        return self._samples[name]

    def knows_features(self) -> bool:
        """Returns whether evaluations computed the features of training and test images."""
        return {"train", "test"} <= self._features.keys()

    def settings(self, name: str, declared: type[section.Section]) -> ml_collections.ConfigDict:
        """Returns the pretraining's settings for an evaluation, or the defaults of `declared`."""
        return self.config.eval.get(name) or section.defaults(declared)
