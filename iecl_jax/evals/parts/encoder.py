"""Opens the splits of a data set and encodes them with a frozen encoder."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import config as config_lib
from iecl_jax import console, data
from iecl_jax.data import augment
from iecl_jax.evals.measures import features
from iecl_jax.methods import Method

Encode = Callable[[np.ndarray], np.ndarray]


class Unlabelled(ValueError):
    """Raised if a data set lacks the labels or test images that an evaluation needs."""


def replicate(tree: Any) -> Any:
    """Copies a tree to each local device. Its arrays are on the host or equal on all devices."""
    mesh = Mesh(np.array(jax.local_devices()), ("local",))
    return jax.device_put(jax.device_get(tree), NamedSharding(mesh, PartitionSpec()))


def on_pixels(
    config: ml_collections.ConfigDict, output: Callable[..., jax.Array]
) -> Callable[..., jax.Array]:
    """Returns a pmapped function: (params, method_state, images uint8 [D, b, H, W, 3]) -> output.

    Args:
      config: the pretraining config, whose image size, mean and deviation count.
      output: (params, method_state, images float32 [b, S, S, 3]) -> [b, ...].
    """
    transform = augment.make_eval_transform(config.data.image_size, *data.statistics(config.data))

    def of_pixels(params, method_state, images):
        return output(params, method_state, transform(images))

    return jax.pmap(of_pixels, in_axes=(None, None, 0), devices=jax.local_devices())


def over_devices(mapped: Callable[..., jax.Array], *weights: Any) -> Encode:
    """Returns a function: images uint8 [b, H, W, 3] -> [b, ...], over the local devices.

    b must be a multiple of their number. `mapped` is a pmapped function of the weights, which are
    the same on all devices, and of the images [D, b / D, H, W, 3].
    """
    copies = replicate(weights)

    def encode(images: np.ndarray) -> Any:
        parts = images.reshape(jax.local_device_count(), -1, *images.shape[1:])
        result = mapped(*copies, parts)
        return result.reshape(len(images), *result.shape[2:])

    return encode


class SplitEncoder:
    """Encodes the splits of a config's data set on the devices of this process.

    A split is opened at its first use. `data.cache` says where its decoded images are kept.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, method: Method, pretrain: data.Split | None = None
    ):
        """Compiles nothing yet. `pretrain` is the split of that name, if it is already open."""
        self._config, self._method = config, method
        self._others: dict[str, SplitEncoder] = {}
        self._opened: dict[str, data.Split] = {} if pretrain is None else {"pretrain": pretrain}
        self._encode = on_pixels(config, lambda *given: method.encode(*given)["pooled"])

    def on(self, config: ml_collections.ConfigDict) -> "SplitEncoder":
        """Returns the encoder of the same network for the images of another config."""
        images = config_lib.to_json(config.data)
        if images not in self._others:
            self._others[images] = SplitEncoder(config, self._method)
        return self._others[images]

    @property
    def num_devices(self) -> int:
        """The number of devices, of which the number of images encoded at once is a multiple."""
        return jax.local_device_count()

    def split(self, name: str) -> data.Split:
        """Returns the split "pretrain", "train" or "test"; raises ValueError if there is none."""
        if name not in self._opened:
            # In most data sets "pretrain" is "train": it is not opened a second time.
            known = self._opened.get("pretrain") if name == "train" else None
            if known is None or not known.is_train:
                known = data.open_split(self._config.data, name)
            self._opened[name] = known
        return self._opened[name]

    def labelled(self, name: str) -> data.Split:
        """Returns the split "train" or "test", which has at least one labelled image.

        Raises:
          Unlabelled: the split does not exist or has no labels, or only one class to train on.
        """
        try:
            split = self.split(name)
        except ValueError as error:
            raise Unlabelled(str(error)) from error
        known = split.labels[split.labels >= 0]
        if not split.class_names or not len(known):
            raise Unlabelled(f"the {name} images of {self._config.data.name} have no labels.")
        if name == "train" and (known == known[0]).all():
            only = split.class_names[known[0]]
            raise Unlabelled(
                f"the train images of {self._config.data.name} have one class, {only!r}: there is "
                "nothing to tell apart."
            )
        return split

    def bind(self, params: Any, method_state: Any) -> Encode:
        """Returns a function: images uint8 [b, H, W, 3] -> pooled features float32 [b, F].

        b must be a multiple of the number of devices.
        """
        weights = ({"online": params["online"]}, {"online": method_state.get("online", {})})
        return over_devices(self._encode, *weights)

    def features_of_pretrain(self, params: Any, method_state: Any) -> np.ndarray:
        """Returns the features float32 [N, F] of the training images, in their order."""
        return self.extract(self.bind(params, method_state), self.split("pretrain"))[0]

    def extract(
        self, encode: Encode, split: data.Split, indices: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (features float32 [n, F] by `encode`, labels int32 [n]) of images of a split.

        `indices` (int [n]) are the images, all of them by default.
        """
        devices, count = self.num_devices, len(split) if indices is None else len(indices)
        # No larger than the largest split, or most of a batch would be padding.
        wanted = min(self._config.eval.batch_size, max(map(len, (split, *self._opened.values()))))
        batch_size = -(-wanted // devices) * devices  # Rounded up.
        batches = data.eval_batches(self._config.data, split, batch_size, indices)
        with console.progress(f"Encoding images of {split.name}", count, "image") as shown:
            return features.extract(
                encode, _counting(batches, batch_size, shown), num_examples=count
            )


def _counting(batches: Iterable[Any], batch_size: int, shown: console.Task) -> Iterator[Any]:
    for number, batch in enumerate(batches):
        yield batch
        shown.update(min(shown.total or 0, (number + 1) * batch_size))
