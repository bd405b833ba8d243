"""Starts a training from the encoder of a file or run, where `encoder.init_from` names one."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from flax import traverse_util

from iecl_jax import data
from iecl_jax.models import build
from iecl_jax.models.conv import folded, normalised
from iecl_jax.run import stored
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.train.state import TrainState

_SHOWN = ("name", "stem", "width")  # settings that decide the shapes of a ResNet
_LAYER = "feature"  # the layer after the pooling, which is taken where it fits


class Start(NamedTuple):
    """The variables of an encoder with which a training starts, on the host."""

    params: Any
    stats: Any


def read(config: ml_collections.ConfigDict, run_dir: str = "") -> Start | None:
    """Returns the weights of `encoder.init_from` for the encoder of a config.

    Spectral norms of theirs are divided out. Where the config has `spectral_norm`, the running
    statistics become those of normalised kernels, so that the network computes the same (see
    `conv.normalised`). A layer after the pooling is only taken if it has the same shape.

    Args:
      config: a pretraining config.
      run_dir: the folder of the run.

    Returns:
      None if the config names no file, or the run has a checkpoint from which it goes on.

    Raises:
      ValueError: the file cannot be read, or its encoder is another one.
    """
    name = config.encoder.init_from
    if not name or (run_dir and stored.newest_first(Path(run_dir) / "checkpoints")):
        return None
    theirs, weights = load_for_evaluation(name)
    params = weights["params"]["online"]["encoder"]
    stats = weights["method_state"].get("online", {}).get("encoder", {})
    if theirs.encoder.get("spectral_norm"):
        params, stats = jax.device_get(jax.jit(folded)(params, stats))
    _require_fit(config, theirs, params, stats)
    wanted = _shapes(config)
    if any(wanted.get(path) != shape for path, shape in _layer(params).items()):
        params = {part: tree for part, tree in params.items() if part != _LAYER}
    _tell_statistics(config, theirs)
    if config.encoder.get("spectral_norm"):
        params, stats = normalised(params, stats)
    return Start(params, stats)


def put(state: TrainState, start: Start | None) -> TrainState:
    """Returns the initial state with the start's weights in each copy of the encoder.

    A copy is a subtree of the parameters or of the method's state with the name "encoder": that of
    the online network, and that of a momentum network, which starts as a copy.
    """
    if start is None:
        return state
    found = traverse_util.flatten_dict(start.params) | traverse_util.flatten_dict(start.stats)

    def place(path: Any, leaf: Any) -> Any:
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        inside = names[names.index("encoder") + 1 :] if "encoder" in names else ()
        value = found.get(tuple(inside))
        if value is None:
            return leaf
        return jax.device_put(np.array(value, leaf.dtype), leaf.sharding)

    trees = (state.params, state.method_state)
    params, method_state = jax.tree_util.tree_map_with_path(place, trees)
    return dataclasses.replace(state, params=params, method_state=method_state)


def _require_fit(
    config: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict, params: Any, stats: Any
) -> None:
    """Raises ValueError unless the variables, but for the layer, are those of the encoder."""
    named = f"encoder.init_from={config.encoder.init_from}"
    both = [(key, theirs.encoder.get(key), config.encoder.get(key)) for key in _SHOWN]
    other = [(key, old, new) for key, old, new in both if old != new]
    if other:
        their, our = (
            ", ".join(f"encoder.{key}={pair[which]!r}" for key, *pair in other) for which in (0, 1)
        )
        raise ValueError(
            f"{named} has {their}, and this run has {our}: set the same here, or name another file."
        )
    wanted, found = _shapes(config), _flat_shapes(params, stats)
    for path in sorted(wanted.keys() | found.keys()):
        if path[0] != _LAYER and wanted.get(path) != found.get(path):
            shapes = (str(list(each[path])) if path in each else "none" for each in (found, wanted))
            raise ValueError(
                f"{named} does not fit the encoder: {'/'.join(path)} has the shape "
                f"{' instead of '.join(shapes)}; name another file."
            )


def _shapes(config: ml_collections.ConfigDict) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the shapes of a config's encoder without spectral normalisation, by path."""
    plain = ml_collections.ConfigDict(config.to_dict())
    if "spectral_norm" in plain.encoder:
        plain.encoder.spectral_norm = False
    size = config.data.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    made: Any = jax.eval_shape(
        lambda key, x: build.encoder(plain).init(key, x, train=False), jax.random.key(0), images
    )
    return _flat_shapes(made["params"], made.get("batch_stats", {}))


def _flat_shapes(params: Any, stats: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    both = traverse_util.flatten_dict(params) | traverse_util.flatten_dict(stats)
    return {path: leaf.shape for path, leaf in both.items()}


def _layer(params: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: shape for path, shape in _flat_shapes(params, {}).items() if path[0] == _LAYER}


def _tell_statistics(config: ml_collections.ConfigDict, theirs: ml_collections.ConfigDict) -> None:
    """Warns if the encoder was trained on images that were normalised in another way."""
    ours, before = data.statistics(config.data), data.statistics(theirs.data)
    if not np.allclose(ours, before):
        logging.warning(
            "encoder.init_from: the weights are for images of mean %s and standard deviation %s, "
            "and this run normalises by %s and %s: data.mean and data.std change that.",
            *(*before, *ours),
        )
