"""A linear probe on frozen features: its parameters, its training step and its accuracy.

In the paper's protocol (§4.1) the images are augmented and encoded again in every epoch:
`evals.linear_probe` does that and calls `probe_step`. `probe_grid` trains many probes on features
that are computed once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iecl_jax.losses.product import product
from iecl_jax.losses.standardize import standardize

Array = jax.Array | np.ndarray
Params = dict[str, jax.Array]


class ProbeState(NamedTuple):
    """A probe in training.

    Attributes:
      step: int32 [], number of steps taken.
      params: {"kernel": float32 [F, C], "bias": float32 [C]}.
      opt_state: the state of `probe_optimizer`.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def normalize_features(x: Array, how: str) -> jax.Array:
    """Returns the normalised features, the input of the probe.

    Args:
      x: float [..., F].
      how: "layer_norm": (x - mean) / sqrt(variance + 1e-5) over the last axis, without parameters
        (the paper's "layer normalization", §4.1); "none": x.

    Returns:
      float32 [..., F].

    Raises:
      ValueError: `how` is unknown.
    """
    x = jnp.asarray(x, jnp.float32)
    if how == "none":
        return x
    if how == "layer_norm":
        return standardize(x)
    raise ValueError(f"feature normalisation {how!r} is unknown: use 'layer_norm' or 'none'.")


def probe_optimizer(
    learning_rate: float | jax.Array, *, momentum: float, weight_decay: float, total_steps: int
) -> optax.GradientTransformation:
    """Returns SGD with momentum, as in torch.optim.SGD, with a cosine schedule to 0.

    With g the gradient plus weight_decay * kernel (the bias has no decay):

        v <- momentum * v + g;  params <- params - rate_t * v;
        rate_t = learning_rate * (1 + cos(pi * t / total_steps)) / 2 at step t = 0, 1, ...

    The paper (§4.1) has learning_rate 0.03 at batch 512, momentum 0.9, weight_decay 1e-5 and 200
    epochs. `learning_rate` may be a traced value.

    Raises:
      ValueError: total_steps < 1.
    """
    if total_steps < 1:
        raise ValueError(f"the probe's total_steps is {total_steps}: train for at least 1 step.")

    def rate(step):
        progress = jnp.minimum(jnp.asarray(step, jnp.float32) / total_steps, 1.0)
        return learning_rate * (1 + jnp.cos(jnp.pi * progress)) / 2

    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask={"kernel": True, "bias": False}),
        optax.sgd(rate, momentum),
    )


def init_probe(
    key: jax.Array, feature_dim: int, num_classes: int, tx: optax.GradientTransformation
) -> ProbeState:
    """Returns a new probe: kernel from N(0, 0.01^2), bias 0, as in MoCo's `main_lincls.py`."""
    kernel = 0.01 * jax.random.normal(key, (feature_dim, num_classes), jnp.float32)
    params = {"kernel": kernel, "bias": jnp.zeros(num_classes, jnp.float32)}
    return ProbeState(jnp.zeros((), jnp.int32), params, tx.init(params))


def probe_logits(params: Params, features: jax.Array) -> jax.Array:
    """Returns features [B, F] @ kernel [F, C] + bias [C] in full float32: [B, C]."""
    return product(features, params["kernel"]) + params["bias"][None]


def probe_step(
    state: ProbeState,
    features: jax.Array,
    labels: jax.Array,
    *,
    tx: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[ProbeState, jax.Array]:
    """Takes one SGD step on the mean cross-entropy of the labelled examples. A pure function.

    Args:
      state: a state that started as `init_probe(..., tx)`.
      features: float32 [B, F], normalised.
      labels: int32 [B]; examples labelled -1 are not counted.
      tx: the optimizer, from `probe_optimizer`.
      axis_name: the axis of `jax.pmap`, over whose devices the batch is spread; None without pmap.

    Returns:
      (state after the step, loss before the step, float32 []).
    """

    def total_loss(params):
        logits = probe_logits(params, features)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        return jnp.sum(jnp.where(labels >= 0, each, 0.0))

    loss, grads = jax.value_and_grad(total_loss)(state.params)
    count = jnp.sum(labels >= 0, dtype=jnp.float32)
    if axis_name is not None:
        loss, grads, count = jax.lax.psum((loss, grads, count), axis_name)
    count = jnp.maximum(count, 1.0)
    grads = jax.tree.map(lambda g: g / count, grads)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return ProbeState(state.step + 1, params, opt_state), loss / count


def count_correct(params: Params, features: jax.Array, labels: jax.Array, *, k: int) -> jax.Array:
    """Returns how many labels are among the k largest logits, int32 []. A pure function.

    A label of -1 never counts. Logits that are not finite, from a probe that diverged, never count.

    Args:
      params: the parameters of a probe, see `ProbeState`.
      features: float32 [B, F], normalised as in training.
      labels: int32 [B].
      k: at most C.
    """
    logits = probe_logits(params, features)
    _, best = jax.lax.top_k(logits, k)
    hit = jnp.any(best == labels[:, None], axis=1) & jnp.all(jnp.isfinite(logits), axis=1)
    return jnp.sum(hit, dtype=jnp.int32)


def grid_accuracy(
    params: Params, features: Array, labels: Array, *, k: int = 1, batch_size: int = 4096
) -> np.ndarray:
    """Returns the top-k accuracy of each of several probes.

    Args:
      params: {"kernel": float32 [G, F, C], "bias": float32 [G, C]} for G probes.
      features: float [N, F], normalised as in training.
      labels: int [N]; examples labelled -1 are not counted.
      k: an example counts as correct if its label is among the k largest logits; at most C.
      batch_size: number of examples on the device at once.

    Returns:
      Accuracies, float64 [G], in [0, 1].

    Raises:
      ValueError: no example is labelled.
    """
    labels = np.asarray(labels, np.int32)
    num_labelled = int((labels >= 0).sum())
    if num_labelled == 0:
        raise ValueError("no example is labelled, so there is no accuracy: use a labelled split.")
    correct = np.zeros(len(params["bias"]), np.int64)
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        rows = jnp.asarray(features[part], jnp.float32)
        correct += np.asarray(_count_correct_of_grid(params, rows, labels[part], k=k))
    return correct / num_labelled


@functools.partial(jax.jit, static_argnames="k")
def _count_correct_of_grid(params, features, labels, *, k):
    """Returns `count_correct` of each probe of a grid, int32 [G]."""
    count = functools.partial(count_correct, k=k)
    return jax.vmap(count, in_axes=(0, None, None))(params, features, labels)
