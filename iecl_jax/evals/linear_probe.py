"""Linear probes on frozen features.

Streaming (the paper's protocol, §4.1): every epoch augments the images anew; the caller encodes
them and takes `probe_step`s, or hands the features to `train_streaming`.
Cached: features computed once; `train_grid` trains a probe for each learning rate at once and
`choose_and_test` chooses the rate on a held-out part of the training set.
Few labels: `few_label_accuracy`, logistic regression on a few examples of each class.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from iecl_jax.evals import draws

Array = jax.Array | np.ndarray
Params = dict[str, jax.Array]


class ProbeState(NamedTuple):
    """A probe in training.

    Attributes:
      step: int32 [], steps taken.
      params: {"kernel": float32 [F, C], "bias": float32 [C]}.
      opt_state: of `probe_optimizer`.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def normalize_features(x: Array, how: str) -> jax.Array:
    """What the probe sees of the features.

    Args:
      x: float [..., F].
      how: "layer_norm": (x - mean) / sqrt(variance + 1e-5) over the last axis, without parameters
        (the paper's "layer normalization", §4.1); "none": x.

    Returns:
      float32 [..., F].

    Raises:
      ValueError: another `how`.
    """
    x = jnp.asarray(x, jnp.float32)
    if how == "none":
        return x
    if how == "layer_norm":
        return jax.nn.standardize(x, axis=-1, epsilon=1e-5)
    raise ValueError(f"feature normalisation {how!r} is unknown: use 'layer_norm' or 'none'.")


def probe_optimizer(
    learning_rate: float | jax.Array, *, momentum: float, weight_decay: float, total_steps: int
) -> optax.GradientTransformation:
    """SGD with momentum, the rate falling to 0 on a cosine.

    With g the gradient plus weight_decay * kernel (none on the bias), as in torch.optim.SGD:
    v <- momentum * v + g;  params <- params - rate_t * v;
    rate_t = learning_rate * (1 + cos(pi * t / total_steps)) / 2 at step t = 0, 1, ...

    The paper (§4.1): learning_rate 0.03 at batch 512, momentum 0.9, weight_decay 1e-5, 200 epochs.
    `learning_rate` may be traced. Raises ValueError if total_steps < 1.
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
    """A new probe: kernel from N(0, 0.01^2), bias 0, as MoCo's `main_lincls.py`."""
    kernel = 0.01 * jax.random.normal(key, (feature_dim, num_classes), jnp.float32)
    params = {"kernel": kernel, "bias": jnp.zeros(num_classes, jnp.float32)}
    return ProbeState(jnp.zeros((), jnp.int32), params, tx.init(params))


def probe_logits(params: Params, features: jax.Array) -> jax.Array:
    """features [B, F] @ kernel [F, C] + bias, in full float32: [B, C]."""
    logits = jnp.matmul(features, params["kernel"], precision=jax.lax.Precision.HIGHEST)
    return logits + params["bias"][None]


def probe_step(
    state: ProbeState,
    features: jax.Array,
    labels: jax.Array,
    *,
    tx: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[ProbeState, jax.Array]:
    """One SGD step on the mean cross-entropy of the labelled examples; pure, for jit or pmap.

    Args:
      state: of `init_probe(..., tx)`.
      features: float32 [B, F], normalised.
      labels: int32 [B]; examples labelled -1 are not counted.
      tx: of `probe_optimizer`.
      axis_name: inside `jax.pmap`, its axis: the batch is then the examples of all devices.

    Returns:
      (state after the step, loss float32 [] before it).
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
    """How many labels are among the k largest logits, int32 []; pure, to be jitted.

    A label of -1 never is, nor is any label where a diverged probe's logits are not finite.
    features float32 [B, F], normalised as in training; labels int32 [B]; k at most C.
    """
    logits = probe_logits(params, features)
    _, best = jax.lax.top_k(logits, k)
    hit = jnp.any(best == labels[:, None], axis=1) & jnp.all(jnp.isfinite(logits), axis=1)
    return jnp.sum(hit, dtype=jnp.int32)


def train_streaming(
    state: ProbeState,
    batches: Iterable[tuple[Array, Array]],
    *,
    tx: optax.GradientTransformation,
    total_steps: int,
    on_step: Callable[[ProbeState, jax.Array], None] | None = None,
) -> ProbeState:
    """Takes a probe from `state.step` to `total_steps` on one device.

    Args:
      state: new from `init_probe`, or restored.
      batches: (features float32 [B, F], labels int32 [B]) of the steps still to take.
      tx: of `probe_optimizer` with the same total_steps.
      total_steps: where to stop.
      on_step: called after each step with (state, loss); for logs and checkpoints.

    Returns:
      The state at total_steps.

    Raises:
      ValueError: the batches end too early.
    """
    step_fn = jax.jit(functools.partial(probe_step, tx=tx))
    first, batches = int(state.step), iter(batches)
    for step in range(first, total_steps):
        batch = next(batches, None)
        if batch is None:
            raise ValueError(
                f"the batches ended after step {step} of {total_steps}: "
                "repeat the data or lower total_steps."
            )
        state, loss = step_fn(state, *batch)
        if on_step is not None:
            on_step(state, loss)
    return state


def train_grid(
    features: Array,
    labels: Array,
    *,
    learning_rates: Sequence[float],
    num_classes: int,
    num_epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    seed: int,
) -> Params:
    """One probe for each learning rate, trained side by side on one device.

    All start from the same parameters and see the same batches, and each is what `probe_step` with
    its rate alone would give. An epoch is a seeded permutation cut into batches; the examples left
    over, fewer than a batch, wait for another epoch.

    Args:
      features: float [N, F], normalised by the caller.
      labels: int [N]; examples labelled -1 are not counted.
      learning_rates: G rates, each the start of a cosine to 0.
      num_classes: C.
      num_epochs: passes over the features.
      batch_size: examples of a step; N if that is smaller.
      momentum, weight_decay: of `probe_optimizer`.
      seed: of the first kernel and of the data order.

    Returns:
      {"kernel": float32 [G, F, C], "bias": float32 [G, C]}.

    Raises:
      ValueError: there is no example, a label is not below num_classes, or num_epochs < 1.
    """
    features, labels = jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.int32)
    num_examples, width = features.shape
    if num_examples == 0:
        raise ValueError("a linear probe needs training examples: the features are empty.")
    if int(labels.max()) >= num_classes:
        raise ValueError(f"label {int(labels.max())} needs a num_classes above {num_classes}.")
    batch_size = min(batch_size, num_examples)
    sgd: dict[str, Any] = {
        "momentum": momentum,
        "weight_decay": weight_decay,
        "total_steps": num_epochs * (num_examples // batch_size),
    }
    rates = jnp.asarray(learning_rates, jnp.float32)
    init_key, order_key = jax.random.split(jax.random.key(seed))
    state = init_probe(init_key, width, num_classes, probe_optimizer(0.0, **sgd))
    states = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(rates), axis=0), state)
    for epoch in range(num_epochs):
        key = jax.random.fold_in(order_key, epoch)
        states = _grid_epoch(states, rates, features, labels, key, batch_size=batch_size, **sgd)
    return states.params


@functools.partial(
    jax.jit,
    static_argnames=("batch_size", "momentum", "weight_decay", "total_steps"),
    donate_argnames="states",
)
def _grid_epoch(
    states: ProbeState,
    rates: jax.Array,
    features: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    batch_size: int,
    **sgd,
) -> ProbeState:
    """One epoch of every probe of a grid.

    `states` has a leading axis [G], `rates` are [G], `sgd` is the rest of `probe_optimizer`'s
    arguments.
    """
    steps = len(features) // batch_size
    order = jax.random.permutation(key, len(features))[: steps * batch_size]

    def step(states, rows):
        def step_of_one(state, rate):
            return probe_step(state, features[rows], labels[rows], tx=probe_optimizer(rate, **sgd))

        states, _ = jax.vmap(step_of_one)(states, rates)
        return states, None

    return jax.lax.scan(step, states, order.reshape(steps, batch_size))[0]


def grid_accuracy(
    params: Params, features: Array, labels: Array, *, k: int = 1, batch_size: int = 4096
) -> np.ndarray:
    """Top-k accuracy of each probe of a grid.

    Args:
      params: of `train_grid`.
      features: float [N, F], normalised as in training.
      labels: int [N]; examples labelled -1 are not counted.
      k: the label must be among the k largest logits; at most C.
      batch_size: examples at once.

    Returns:
      float64 [G], in [0, 1].

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
    """`count_correct` of each probe of a grid, int32 [G]."""
    count = functools.partial(count_correct, k=k)
    return jax.vmap(count, in_axes=(0, None, None))(params, features, labels)


def choose_and_test(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    *,
    learning_rates: Sequence[float],
    num_classes: int,
    num_epochs: int,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    seed: int,
    holdout: float = 0.1,
) -> dict[str, float | dict[float, float]]:
    """Chooses a learning rate without the test set, then tests that one probe once.

    A seeded, stratified part of the training set is held out; every rate trains on the rest, and
    the rate with the best held-out top-1 (the first of equals) trains again on all of the training
    set. Only that probe sees the test set.

    Args:
      train_features, test_features: float [N, F] and [M, F], normalised.
      train_labels, test_labels: int [N] and [M]; examples labelled -1 are left out.
      holdout: share of each class that is held out, between 0 and 1; at least one example, except
        of a class with a single one.
      learning_rates and the other settings: of `train_grid`.

    Returns:
      {"best_learning_rate", "holdout_accuracy": {rate: top-1}, "test_top1", and "test_top5" if
      there are more than 5 classes}; accuracies in [0, 1].

    Raises:
      ValueError: holdout is not between 0 and 1, no rate is given, or nothing can be held out.
    """
    if len(learning_rates) == 0:
        raise ValueError("learning_rates is empty: give at least one to choose from.")
    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    kept, held = draws.split_holdout(train_labels, share=holdout, seed=seed)
    train = functools.partial(
        train_grid,
        num_classes=num_classes,
        num_epochs=num_epochs,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=weight_decay,
        seed=seed,
    )
    grid = train(train_features[kept], train_labels[kept], learning_rates=learning_rates)
    held_out = grid_accuracy(grid, train_features[held], train_labels[held])
    best = learning_rates[int(held_out.argmax())]

    known = train_labels >= 0
    chosen = train(train_features[known], train_labels[known], learning_rates=[best])
    result: dict[str, float | dict[float, float]] = {
        "best_learning_rate": best,
        "holdout_accuracy": dict(zip(learning_rates, held_out.tolist(), strict=True)),
        "test_top1": float(grid_accuracy(chosen, test_features, test_labels)[0]),
    }
    if num_classes > 5:
        result["test_top5"] = float(grid_accuracy(chosen, test_features, test_labels, k=5)[0])
    return result


def few_label_accuracy(
    train_features: Array,
    train_labels: Array,
    test_features: Array,
    test_labels: Array,
    *,
    labels_per_class: int,
    seed: int,
    num_draws: int = 5,
) -> tuple[float, float]:
    """Test accuracy of logistic regression on a few labels, over several draws of them.

    Features are standardised with the mean and deviation of all training features, which takes no
    labels. The regression is scikit-learn's, C = 1, run until it converges. The draws depend on
    train_labels and seed only, so representations of the same images are compared on the same
    draws.

    Args:
      train_features, test_features: float [N, F] and [M, F].
      train_labels, test_labels: int [N] and [M]; examples labelled -1 are neither drawn nor tested.
      labels_per_class: examples drawn of each class.
      seed: of the draws.
      num_draws: at least 1.

    Returns:
      (mean, standard deviation) of the accuracy in [0, 1] over the draws; the deviation divides by
      num_draws - 1, and is 0 for one draw.

    Raises:
      ValueError: a class has fewer than labels_per_class examples, there are fewer than two
        classes, no test example is labelled, or num_draws < 1.
    """
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}: make at least 1.")
    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    known = np.asarray(test_labels) >= 0
    if not known.any():
        raise ValueError("no test example is labelled, so there is no accuracy: use another split.")
    if len(np.unique(train_labels[train_labels >= 0])) < 2:
        raise ValueError("the training labels hold fewer than two classes: nothing to tell apart.")
    scaler = StandardScaler().fit(train_features)
    test_x = scaler.transform(np.asarray(test_features, np.float64)[known])
    test_y = np.asarray(test_labels)[known]
    accuracies = []
    for draw in range(num_draws):
        rows = draws.few_labels(
            train_labels, labels_per_class=labels_per_class, seed=seed, draw=draw
        )
        train_x = scaler.transform(train_features[rows].astype(np.float64))
        model = LogisticRegression(C=1.0, max_iter=10_000).fit(train_x, train_labels[rows])
        accuracies.append(np.mean(model.predict(test_x) == test_y))
    return float(np.mean(accuracies)), float(np.std(accuracies, ddof=1)) if num_draws > 1 else 0.0
