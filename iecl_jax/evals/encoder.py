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


def replicate(tree: Any) -> Any:
    """Puts a tree, of host arrays or of arrays equal on all devices, on each local device."""
    mesh = Mesh(np.array(jax.local_devices()), ("local",))
    return jax.device_put(jax.device_get(tree), NamedSharding(mesh, PartitionSpec()))


class SplitEncoder:
    """Encodes the train and test splits of a config's data set on the devices of this process.

    The splits are opened once, and kept decoded where `data.cache` says so. `missing` says why the
    data set cannot be evaluated on (no test images, no labels), or is None.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, method: Method, train: data.Split | None = None
    ):
        """`train`: the train split, if it is open already."""
        self._config = config
        self._devices = jax.local_devices()
        transform = augment.make_eval_transform(config.augment, config.data.image_size)

        def pooled(params, method_state, images):
            return method.encode(params, method_state, transform(images))["pooled"]

        self._encode = jax.pmap(pooled, in_axes=(None, None, 0), devices=self._devices)
        self.missing: str | None = None
        try:
            self.splits = {
                "train": train or data.open_split(config.data, "train"),
                "test": data.open_split(config.data, "test"),
            }
        except ValueError as error:
            self.missing = str(error)
        else:
            for name, split in self.splits.items():
                if not (split.num_classes and (split.labels >= 0).any()):
                    self.missing = f"the {name} images of {config.data.name} have no labels."

    @property
    def num_classes(self) -> int:
        """Classes of the labels; only where nothing is `missing`."""
        return self.splits["train"].num_classes

    def bind(self, params: Any, method_state: Any) -> Encode:
        """images uint8 [b, H, W, 3] -> features float32 [b, F], b a multiple of the devices."""
        weights = ({"online": params["online"]}, {"online": method_state["online"]})
        return functools.partial(self._run, *replicate(weights))

    def _run(self, params, method_state, images: np.ndarray):
        parts = images.reshape(len(self._devices), -1, *images.shape[1:])
        encoded = self._encode(params, method_state, parts)
        return encoded.reshape(len(images), -1)

    def extract(self, encode: Encode, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(encode of every image float32 [N, F], labels int32 [N]) of "train" or "test"."""
        opened = self.splits[split]
        devices = len(self._devices)
        batch_size = -(-self._config.eval.batch_size // devices) * devices  # rounded up
        batches = data.eval_batches(self._config.data, opened, batch_size)
        return features.extract(encode, batches, num_examples=len(opened))
