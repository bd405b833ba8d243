"""The online and the offline linear probe: one loss, one step, one accuracy on one input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probe_reference import clusters

from iecl_jax.evals.measures import linear_probe, probe_grid
from iecl_jax.train import step as train_step

pytestmark = pytest.mark.quick

RATE, MOMENTUM, EPOCHS, BATCH = 0.1, 0.9, 10, 32


def online_step(probe, state, features, labels, tx):
    """What a training does with its probe, see `train.optim.make`."""

    def loss(probe, features, labels):
        given = map(jnp.asarray, (features, labels))
        return train_step.probe_metrics(probe, *given, None)["probe_loss"]

    value, gradient = jax.value_and_grad(loss)(probe, features, labels)
    updates, state = tx.update(gradient, state, probe)
    return optax.apply_updates(probe, updates), state, value


def test_a_step_of_both_is_the_same():
    features, labels = clusters(BATCH, width=5)
    labels[:3] = -1
    tx = optax.sgd(RATE, MOMENTUM)
    offline = linear_probe.init_probe(jax.random.key(0), 5, 3, tx)
    online, state = offline.params, tx.init(offline.params)
    rows = linear_probe.normalize_features(features, "layer_norm")
    for _ in range(2):
        offline, loss = linear_probe.probe_step(offline, rows, labels, tx=tx)
        online, state, value = online_step(online, state, features, labels, tx)
        np.testing.assert_allclose(value, loss, rtol=1e-6)
        for name, leaf in online.items():
            np.testing.assert_allclose(leaf, offline.params[name], rtol=1e-5, atol=1e-7)


def test_both_reach_the_same_accuracy_on_fixed_features():
    """A constant rate against the best of a grid that falls to 0: within 2 points."""
    (x, y), (test_x, test_y) = clusters(512, width=9), clusters(1000, width=9, seed=1)
    tx = optax.sgd(RATE, MOMENTUM)
    online = {"kernel": np.zeros((9, 3), np.float32), "bias": np.zeros(3, np.float32)}
    state, take = tx.init(online), jax.jit(functools.partial(online_step, tx=tx))
    rng = np.random.default_rng(0)
    for _ in range(EPOCHS):
        for rows in rng.permutation(len(x)).reshape(-1, BATCH):
            online, state, _ = take(online, state, x[rows], y[rows])
    normal, test = (
        np.asarray(linear_probe.normalize_features(each, "layer_norm")) for each in (x, test_x)
    )
    grid = jax.tree.map(lambda leaf: leaf[None], online)
    accuracy = linear_probe.grid_accuracy(grid, test, test_y)[0]
    offline = probe_grid.choose_and_test(
        normal,
        y,
        test,
        test_y,
        learning_rates=(0.03, 0.1, 0.3),
        num_classes=3,
        num_epochs=EPOCHS,
        batch_size=BATCH,
        momentum=MOMENTUM,
        weight_decay=0.0,
        seed=0,
    )
    assert 0.5 < offline["test_top1"] < 0.999
    assert abs(accuracy - offline["test_top1"]) < 0.02
