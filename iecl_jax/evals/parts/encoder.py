"""The frozen anchor encoder applied to whole splits: what every evaluation starts from."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import data
from iecl_jax.data import augment
from iecl_jax.evals.measures import features
from iecl_jax.methods import Method

Encode = Callable[[np.ndarray], np.ndarray]


class Unlabelled(ValueError):
    """A data set lacks the labels or the test images that an evaluation needs."""


def replicate(tree: Any) -> Any:
    """Puts a tree, of host arrays or of arrays equal on all devices, on each local device."""
    mesh = Mesh(np.array(jax.local_devices()), ("local",))
    return jax.device_put(jax.device_get(tree), NamedSharding(mesh, PartitionSpec()))


class SplitEncoder:
    """Encodes the splits of a config's data set on the devices of this process.

    A split is opened when it is first asked for, and kept decoded where `data.cache` says so.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, method: Method, pretrain: data.Split | None = None
    ):
        """`pretrain`: the split of that name, if it is open already."""
        self._config = config
        self._devices = jax.local_devices()
        self._opened: dict[str, data.Split] = {} if pretrain is None else {"pretrain": pretrain}
        transform = augment.make_eval_transform(
            config.data.image_size, *data.statistics(config.data)
        )

        def pooled(params, method_state, images):
            return method.encode(params, method_state, transform(images))["pooled"]

        self._encode = jax.pmap(pooled, in_axes=(None, None, 0), devices=self._devices)

    def split(self, name: str) -> data.Split:
        """The split "pretrain", "train" or "test"; ValueError where the data set has none."""
        if name not in self._opened:
            known = self._opened.get("pretrain") if name == "train" else None
            if known is None or not known.is_train:
                known = data.open_split(self._config.data, name)
            self._opened[name] = known
        return self._opened[name]

    def labelled(self, name: str) -> data.Split:
        """The split "train" or "test", of which some images at least are labelled.

        Raises:
          Unlabelled: there is no such split, or it has no labels.
        """
        try:
            split = self.split(name)
        except ValueError as error:
            raise Unlabelled(str(error)) from error
        if not (split.num_classes and (split.labels >= 0).any()):
            raise Unlabelled(f"the {name} images of {self._config.data.name} have no labels.")
        return split

    def bind(self, params: Any, method_state: Any) -> Encode:
        """images uint8 [b, H, W, 3] -> features float32 [b, F], b a multiple of the devices."""
        weights = ({"online": params["online"]}, {"online": method_state.get("online", {})})
        return functools.partial(self._run, *replicate(weights))

    def _run(self, params, method_state, images: np.ndarray):
        parts = images.reshape(len(self._devices), -1, *images.shape[1:])
        encoded = self._encode(params, method_state, parts)
        return encoded.reshape(len(images), -1)

    def extract(self, encode: Encode, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(encode of every image float32 [N, F], labels int32 [N]) of "train" or "test"."""
        split = self.labelled(name)
        devices = len(self._devices)
        batch_size = -(-self._config.eval.batch_size // devices) * devices  # rounded up
        batches = data.eval_batches(self._config.data, split, batch_size)
        return features.extract(encode, batches, num_examples=len(split))
