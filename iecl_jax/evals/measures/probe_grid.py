"""Trains linear probes with a grid of learning rates together, on features computed once.

The best learning rate differs between methods by two orders of magnitude, so a fixed rate would
misjudge methods. `choose_and_test` chooses the rate on a held-out part of the training set.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iecl_jax.evals.measures.linear_probe import (
    Array,
    Params,
    ProbeState,
    grid_accuracy,
    init_probe,
    probe_optimizer,
    probe_step,
)


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
    """Trains one probe for each learning rate, all together on one device.

    All probes start from the same parameters and see the same batches. Each result is the same as
    if `probe_step` had trained that probe alone. An epoch is a seeded permutation cut into batches;
    the last, incomplete batch is dropped.

    Args:
      features: float [N, F], normalised by the caller.
      labels: int [N]; examples labelled -1 are not counted.
      learning_rates: G rates; each falls to 0 on a cosine.
      num_classes: C.
      num_epochs: passes over the features.
      batch_size: examples per step; N if that is smaller.
      momentum, weight_decay: see `probe_optimizer`.
      seed: seed of the initial kernel and of the data order.

    Returns:
      The parameters {"kernel": float32 [G, F, C], "bias": float32 [G, C]}.

    Raises:
      ValueError: there are no examples, a label is not below num_classes, or num_epochs < 1.
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
    """Trains every probe of a grid for one epoch.

    `states` has a leading axis [G], `rates` is [G], and `sgd` has the other arguments of
    `probe_optimizer`.
    """
    steps = len(features) // batch_size
    order = jax.random.permutation(key, len(features))[: steps * batch_size]

    def step(states, rows):
        def step_of_one(state, rate):
            return probe_step(state, features[rows], labels[rows], tx=probe_optimizer(rate, **sgd))

        states, _ = jax.vmap(step_of_one)(states, rates)
        return states, None

    return jax.lax.scan(step, states, order.reshape(steps, batch_size))[0]


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
    """Chooses a learning rate without the test set, then tests a probe with that rate.

    A stratified part of the training set, chosen by the seed, is held out. A probe for every rate
    trains on the rest. The rate with the best held-out top-1 accuracy (of equals, the first) trains
    a new probe on the whole training set. Only that probe sees the test set.

    Args:
      train_features, test_features: float [N, F] and [M, F], normalised.
      train_labels, test_labels: int [N] and [M]; examples labelled -1 are left out.
      holdout: share of each class that is held out, between 0 and 1. At least one example is held
        out, except from a class with a single one.
      learning_rates and the other settings: see `train_grid`.

    Returns:
      {"best_learning_rate", "holdout_accuracy": {rate: top-1}, "test_top1"}, and "test_top5" if
      there are more than 5 classes. Accuracies are in [0, 1].

    Raises:
      ValueError: holdout is not between 0 and 1, no rate is given, or nothing can be held out.
    """
    if len(learning_rates) == 0:
        raise ValueError("learning_rates is empty: give at least one to choose from.")
    train_features, train_labels = np.asarray(train_features), np.asarray(train_labels)
    kept, held = split_holdout(train_labels, share=holdout, seed=seed)
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


def split_holdout(
    labels: np.ndarray, *, share: float, seed: int | tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Splits the labelled examples into two parts, every class in the same proportion.

    From a class with n > 1 examples, round(share * n) are held out, at least 1 and at most n - 1.
    A class with one example keeps it.

    Args:
      labels: int [N]; examples labelled -1 are in neither part.
      share: between 0 and 1, exclusive.
      seed: non-negative; several numbers are a seed too.

    Returns:
      (indices kept, indices held out), int64, sorted.

    Raises:
      ValueError: share is out of range, or no class has two labelled examples.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share is {share}: choose it between 0 and 1, such as 0.1.")
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held[rng.permutation(members)[:count]] = True
    if not held.any():
        raise ValueError("no class has two labelled examples, so none can be held out: add some.")
    return np.flatnonzero(~held & (labels >= 0)), np.flatnonzero(held)
