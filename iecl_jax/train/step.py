"""One training step (Algorithm 1): views, SAIB, forward passes, loss, update, momentum encoder."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale

from iecl_jax.losses.product import product
from iecl_jax.losses.standardize import standardize
from iecl_jax.methods import Method
from iecl_jax.methods.parts.objective import Objective
from iecl_jax.models import collectives
from iecl_jax.train.state import TrainState

AXIS = "devices"


def train_step(
    state: TrainState,
    batch: Mapping[str, Any],
    *,
    method: Method,
    objective: Objective,
    augment: Callable[[jax.Array, Any], list[jax.Array]],
    image_keys: Callable[[jax.Array, jax.Array], jax.Array],
    tx: optax.GradientTransformation,
    schedules: Mapping[str, Callable[[jax.Array], jax.Array]],
    steps_per_epoch: int = 1,
    axis_name: str | None = AXIS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Trains on one batch. A pure function for `jax.pmap` (see `train.experiment.Experiment`).

    Args:
      state: the state, equal on all devices.
      batch: the images of this device: "image" is uint8 [b, H, W, 3], or a list of crops for the
        views, each uint8 [b, S_i, S_i, 3]; "label" is int32 [b], -1 where unknown; "index" is
        int32 [b], the number of each image in the split, if the method reads it.
      method: the method to train, see `methods.Method`.
      objective: (outputs, params) -> (loss, terms), see `methods.parts.objective`.
      augment: (keys [b], "image") -> list of normalised views float32 [b, S_i, S_i, 3].
      image_keys: (step, places [b]) -> PRNG keys [b]. A place is the index of an image in the
        global batch, so the keys do not depend on the number of devices.
      tx: the optimizer.
      schedules: functions of the step, by name; their values are logged.
      steps_per_epoch: the length of an epoch.
      axis_name: the axis of `jax.pmap`; None on a single device without pmap.

    Returns:
      (new state, metrics). Metrics are float32 scalars over the global batch; the terms of the
      objective are unweighted.
    """
    places = collectives.places(len(batch["label"]), axis_name)
    keys = image_keys(state.step, places)
    with jax.named_scope("augment"):  # The names are for profiles.
        views = augment(keys, batch["image"])
    readings = {
        "index": lambda: batch["index"],
        "step": lambda: state.step,
        "epoch": lambda: state.step // steps_per_epoch,
        # Each view of the augmentation has a key of its own; the last of all numbers is free.
        "keys": lambda: jax.vmap(jax.random.fold_in, (0, None))(keys, 2**31 - 1),
    }
    facts = {name: readings[name]() for name in method.reads}

    def loss_fn(params):
        outputs, method_state = method.forward(params, state.method_state, views, **facts)
        loss, terms = objective(outputs, params)
        metrics = {"loss": loss, **terms}
        if "online_probe" in params:  # Its gradient must not reach the encoder.
            features = jax.lax.stop_gradient(outputs["features"])
            probe = probe_metrics(params["online_probe"], features, batch["label"], axis_name)
            metrics |= probe
            loss = loss + probe["probe_loss"]
        return loss, (method_state, metrics)

    found = gradients(loss_fn, state.params, state.dynamic_scale, axis_name)
    grads, method_state, metrics = found.gradients, found.carried, found.metrics
    with jax.named_scope("update"):
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = method.constrain(optax.apply_updates(state.params, updates))
    with jax.named_scope("post_update"):
        method_state = method.post_update(params, method_state, state.step)
    metrics |= {f"grad_norm_{name}": optax.tree.norm(tree) for name, tree in grads.items()}
    metrics |= {name: fn(state.step) for name, fn in schedules.items()}
    new = TrainState(state.step + 1, params, method_state, opt_state, found.scale)
    new, of_scale = unless_overflow(new, state, found.finite)
    return new, metrics | of_scale


class Gradients(NamedTuple):
    """What `gradients` returns.

    Attributes:
      gradients: the mean over the devices, like the parameters.
      carried: what the loss function returned beside the metrics, of this device.
      metrics: the mean over the devices.
      scale: the loss scale of the next step, or None.
      finite: False if the gradients overflowed.
    """

    gradients: Any
    carried: Any
    metrics: dict[str, jax.Array]
    scale: DynamicScale | None
    finite: jax.Array


def gradients(
    loss_fn: Callable[[Any], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]],
    params: Any,
    scale: DynamicScale | None,
    axis_name: str | None,
) -> Gradients:
    """Differentiates params -> (loss, (carried, metrics)), whose loss is that of this device.

    Args:
      loss_fn: the function.
      params: where to differentiate it.
      scale: the loss scale in float16; otherwise None.
      axis_name: the axis of the devices, over which gradients and metrics are averaged.
    """
    # Small float16 gradients underflow: DynamicScale multiplies the loss, then divides them.
    if scale is None:
        (_, (carried, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        grads, metrics = collectives.mean((grads, metrics), axis_name)
        return Gradients(grads, carried, metrics, None, jnp.bool(True))
    gradient = scale.value_and_grad(loss_fn, has_aux=True, axis_name=axis_name)
    scale, finite, (_, (carried, metrics)), grads = gradient(params)
    return Gradients(grads, carried, collectives.mean(metrics, axis_name), scale, finite)


def unless_overflow(
    new: TrainState, old: TrainState, finite: jax.Array
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state after a step, and the metrics of the loss scale, if there is one.

    An overflow (`finite` is False) changes only the step and the loss scale.
    """
    scale = new.dynamic_scale
    if scale is None:
        return new, {}
    kept = dataclasses.replace(old, step=new.step, dynamic_scale=scale)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, kept)
    return new, {
        "loss_scale": jnp.asarray(scale.scale),
        "skipped_step": 1 - finite.astype(jnp.float32),
    }


def probe_metrics(
    probe: Any, features: jax.Array, labels: jax.Array, axis_name: str | None
) -> dict[str, jax.Array]:
    """Returns the cross-entropy and accuracy of the online linear probe.

    Images with label -1 do not count. The mean of each value over the devices is the mean over all
    labelled images of the global batch.

    Args:
      probe: {"kernel": float32 [F, C], "bias": float32 [C]}.
      features: pooled features float32 [b, F].
      labels: int32 [b].
      axis_name: see `train_step`.

    Returns:
      {"probe_loss", "probe_accuracy"}, float32 scalars.
    """
    logits = product(standardize(features), probe["kernel"]) + probe["bias"][None]
    labelled = (labels >= 0).astype(jnp.float32)
    count = collectives.mean_count(labels >= 0, axis_name)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    correct = (logits.argmax(1) == labels).astype(jnp.float32)
    return {
        "probe_loss": (loss * labelled).sum() / count,
        "probe_accuracy": (correct * labelled).sum() / count,
    }
