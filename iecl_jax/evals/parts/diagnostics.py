"""Measures the method's claims about entropy during training, always on the same images.

The diagnostics are not part of the training step, and they do not change the state.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import data, methods
from iecl_jax.data import augment
from iecl_jax.evals.measures import conv_norms, jacobian, preservation
from iecl_jax.losses import entropy
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.train.state import TrainState

# Value -> the key of `config.diagnostics` with its lower limit.
ALARMS = {"rank_me": "min_rank", "feature_std": "min_feature_std"}


class Measured(NamedTuple):
    """The result of one measurement.

    Attributes:
      values: numbers by name, see `Diagnostics`.
      layers: "conv_matrix_norm" and "conv_operator_norm", each {path of a convolution: norm}.
      spectrum: the spectrum of SAIB's Jacobian; None if SAIB is off.
    """

    values: dict[str, float]
    layers: dict[str, dict[str, float]]
    spectrum: jacobian.Spectrum | None

    def pictures(self, step: int) -> dict[str, np.ndarray]:
        """Returns {"jacobian_spectrum": uint8 [h, w, 3]}; {} if there is no finite spectrum."""
        if self.spectrum is None or not np.isfinite(self.values["log_det"]):
            return {}
        from iecl_jax.evals.pictures import spectrum  # A training begins without Matplotlib.

        title = f"Jacobian of SAIB, step {step}"
        return {"jacobian_spectrum": spectrum.draw(self.spectrum, title)}


class Diagnostics:
    """Measures a TrainState on the first images of a split, always with the same augmentation.

    The number of images is `diagnostics.num_images`, or fewer if the split is smaller; it is a
    multiple of the groups of SAIB and BN. Everything is computed in float32 on one device. The
    embeddings are those of the online network Q in training mode. `Measured.values` has:

      entropy_anchor, entropy_query, entropy_query_saib: coding rate of the l2-normalised embeddings
        of the anchor, the query, and the query with SAIB, in nats per dimension. It does not depend
        on the estimator of the objective.
      entropy_gain: entropy_query_saib - entropy_query, the part of SAIB's increment that the
        encoder preserves
      log_det, log_det_stderr: log|det J| of SAIB with running BN statistics on the first group of
        query views, in nats per dimension, and its standard error over the random vectors
      log_det_half_depth: log_det with half as many Lanczos steps, which shows how far it has
        converged (`measures.jacobian`)
      sigma_min, sigma_max: the extreme singular values of that Jacobian that Lanczos found
      rank_me, feature_std: rank and spread of the anchors' pooled features
        (`measures.preservation`)
      alignment: of the embeddings of anchor and query
      uniformity: of the embeddings of the anchor
      conv_matrix_norm, conv_operator_norm: the largest norms over the encoder's convolutions

    Without SAIB there is no entropy_query_saib, entropy_gain, log_det or sigma; without
    convolutions there are no conv norms.
    """

    def __init__(self, config: ml_collections.ConfigDict, split: data.Split):
        """Prepares the measurement. The first call reads the images and compiles."""
        self._config, self._split, self._seed = config, split, np.uint32(config.seed)
        self._settings, self.num_images = config.diagnostics, _count(config, split)
        in_float32 = ml_collections.ConfigDict(config.to_dict())
        in_float32.train.precision = "float32"
        # Three programs, not one: with jaxlib 0.10.2 on the CPU, several batched LAPACK calls in
        # one program can deadlock.
        self._embeddings = _precisely(embedding_measures, in_float32)
        self._norms = _precisely(conv_layers, in_float32)
        self._spectrum = _precisely(saib_spectrum, in_float32) if config.saib.enabled else None

    @functools.cached_property
    def _views(self) -> jax.Array:
        views = fixed_views(self._config, self._split, self.num_images)
        return jax.device_put(views, jax.local_devices()[0])

    def __call__(self, state: TrainState) -> Measured:
        """Measures the state; waits until its step is computed."""
        # The state is equal on all devices; the copy on the first one is enough.
        weights = jax.tree.map(
            lambda leaf: leaf.addressable_data(0), (state.params, state.method_state)
        )
        values = jax.device_get(self._embeddings(*weights, self._views))
        layers = jax.device_get(self._norms(*weights))
        values |= {name: max(norms.values()) for name, norms in layers.items()}
        spectrum = None
        if self._spectrum is not None:
            group = self._views[1, : self._config.saib.group_size]
            spectrum, half = jax.device_get(self._spectrum(*weights, group, self._seed))
            values["log_det"], values["log_det_stderr"] = jacobian.log_det(spectrum)
            values["log_det_half_depth"], _ = jacobian.log_det(half)
            values["sigma_min"], values["sigma_max"] = spectrum.values.min(), spectrum.values.max()
        return Measured({name: float(value) for name, value in values.items()}, layers, spectrum)

    def alarms(self, values: dict[str, float]) -> list[str]:
        """Returns a sentence for each value that is below its limit or not a number."""
        return [
            f"diagnostics/{name} is {values[name]:.3g}, below diagnostics.{line}="
            f"{self._settings[line]:g}: the representation may have collapsed."
            for name, line in ALARMS.items()
            if not values[name] >= self._settings[line]
        ]


def fixed_views(config: ml_collections.ConfigDict, split: data.Split, count: int) -> np.ndarray:
    """Returns anchor and query of the first `count` images, float32 [2, count, S, S, 3].

    The views are made on the device with the keys of step 0. If training crops on the host, since
    the images are large or vary in size, the views are cropped from the evaluation crop instead.
    """
    batch = next(data.eval_batches(config.data, split, count, np.arange(count)))
    make_views = augment.make_augment(
        config.augment, config.data.image_size, *data.statistics(config.data)
    )

    @jax.jit
    def views(seed, images):
        keys = augment.image_keys(augment.run_key(seed), 0, jnp.arange(count))
        return make_views(keys, images)[:2]

    return np.stack(views(np.uint32(config.seed), batch["image"]))


def _count(config: ml_collections.ConfigDict, split: data.Split) -> int:
    group = config.saib.group_size if config.saib.enabled else 1
    unit = math.lcm(group, config.encoder.get("bn_group", 0) or 1)
    return max(1, min(config.diagnostics.num_images, len(split)) // unit) * unit


def conv_layers(
    config: ml_collections.ConfigDict, params: Any, method_state: Any
) -> dict[str, dict[str, jax.Array]]:
    """Returns {"conv_matrix_norm": {path: norm}, "conv_operator_norm": {path: norm}}.

    The paths are those of the encoder's convolutions. Without convolutions the result is {}.
    """
    encode = methods.make(config, total_steps=1).encode
    norms = conv_norms.encoder_norms(
        functools.partial(encode, params, method_state),
        params["online"]["encoder"],
        method_state.get("online", {}).get("encoder", {}),
        image_size=config.data.image_size,
    )
    names = ("conv_matrix_norm", "conv_operator_norm") if norms else ()
    return {name: {path: pair[i] for path, pair in norms.items()} for i, name in enumerate(names)}


def embedding_measures(
    config: ml_collections.ConfigDict, params: Any, method_state: Any, views: jax.Array
) -> dict[str, jax.Array]:
    """Returns the measures of embeddings and pooled features, for views [2, b, S, S, 3]."""
    method = methods.make(config, total_steps=1)
    rate = functools.partial(entropy.coding_rate, epsilon=config.objective.entropy.epsilon)
    anchor, query = views
    inputs = [anchor, query]
    if config.saib.enabled:
        inputs.append(method.transform(params, method_state, query, train=True))
    embedded = method.embed(params, method_state, inputs)
    z, pooled = l2_normalize(embedded["projection"]), embedded["pooled"][0]
    values = {
        "entropy_anchor": rate(z[0]),
        "entropy_query": rate(z[1]),
        "rank_me": preservation.rank_me(pooled),
        "feature_std": preservation.feature_std(pooled),
        "alignment": preservation.alignment(z[0], z[1]),
        "uniformity": preservation.uniformity(z[0]),
    }
    if config.saib.enabled:
        values["entropy_query_saib"] = rate(z[2])
        values["entropy_gain"] = values["entropy_query_saib"] - values["entropy_query"]
    return values


def saib_spectrum(
    config: ml_collections.ConfigDict,
    params: Any,
    method_state: Any,
    group: jax.Array,
    seed: jax.Array,
) -> tuple[jacobian.Spectrum, jacobian.Spectrum]:
    """Returns what `jacobian.lanczos` finds for SAIB with running statistics on [g, S, S, 3]."""
    method = methods.make(config, total_steps=1)
    return jacobian.lanczos(
        lambda images: method.transform(params, method_state, images),
        group,
        jax.random.key(seed),
        depth=config.diagnostics.lanczos_depth,
        num_probes=config.diagnostics.lanczos_probes,
    )


def _precisely(fn: Callable[..., Any], config: ml_collections.ConfigDict) -> Callable[..., Any]:
    """Returns fn(config, ...) compiled, with products in full float32 (GPUs would use TF32)."""

    def precise(*args):
        with jax.default_matmul_precision("highest"):
            return fn(config, *args)

    return jax.jit(precise)
