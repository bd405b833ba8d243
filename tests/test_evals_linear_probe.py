import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_reference import clusters, numpy_sgd

from iecl_jax.evals.measures import linear_probe as lp

SGD: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-2}


def _probe(total_steps, learning_rate=0.5, width=5, num_classes=3):
    tx = lp.probe_optimizer(learning_rate, **SGD, total_steps=total_steps)
    return tx, lp.init_probe(jax.random.key(0), width, num_classes, tx)


def _stream(num_batches, batch_size=8):
    batches = [clusters(batch_size, seed=s) for s in range(num_batches)]
    batches[1][1][:3] = -1
    return batches


def test_normalize_features():
    x = np.random.default_rng(0).normal(2, 3, size=(4, 3, 7)).astype(np.float32)
    x[0, 0] = 5.0
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    expected = centred / np.sqrt(wide.var(axis=-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(lp.normalize_features(x, "layer_norm"), expected, atol=2e-6)
    np.testing.assert_array_equal(lp.normalize_features(x, "none"), x)
    with pytest.raises(ValueError, match="'batch_norm' is unknown"):
        lp.normalize_features(x, "batch_norm")


def test_layer_norm_epsilon_counts_for_small_features():
    x = np.array([[1e-3, -1e-3]], np.float32)
    expected = x / np.sqrt(1e-6 + 1e-5)
    np.testing.assert_allclose(lp.normalize_features(x, "layer_norm"), expected, rtol=1e-5)


def test_init_probe():
    _, state = _probe(3, width=200, num_classes=50)
    assert state.params["kernel"].dtype == jnp.float32
    np.testing.assert_allclose(np.std(state.params["kernel"]), 0.01, rtol=0.05)
    assert not np.any(state.params["bias"])


def test_steps_are_sgd_with_momentum_decay_and_cosine():
    batches = _stream(6)
    tx, state = _probe(6)
    kernel, bias, losses = numpy_sgd(state.params, batches, 0.5, **SGD)
    step = jax.jit(functools.partial(lp.probe_step, tx=tx))
    for number, (batch, expected) in enumerate(zip(batches, losses, strict=True), 1):
        state, loss = step(state, *batch)
        assert int(state.step) == number
        np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(state.params["kernel"], kernel, atol=1e-5)
    np.testing.assert_allclose(state.params["bias"], bias, atol=1e-5)


def test_step_over_two_devices_is_the_step_over_the_whole_batch():
    features, labels = clusters(12)
    labels[:5] = -1
    tx, state = _probe(2)
    expected, loss = jax.jit(functools.partial(lp.probe_step, tx=tx))(state, features, labels)
    step = jax.pmap(
        functools.partial(lp.probe_step, tx=tx, axis_name="i"), axis_name="i", in_axes=(None, 0, 0)
    )
    states, losses = step(state, features.reshape(2, 6, -1), labels.reshape(2, 6))
    for device in range(2):
        np.testing.assert_allclose(losses[device], loss, rtol=1e-6)
        np.testing.assert_allclose(
            states.params["kernel"][device], expected.params["kernel"], atol=1e-6
        )


def test_total_steps_must_be_positive():
    with pytest.raises(ValueError, match="total_steps is 0"):
        _probe(0)


def test_count_correct():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(40, 6)), jnp.float32)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(6, 9)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=9), jnp.float32),
    }
    labels = rng.integers(-1, 9, 40).astype(np.int32)
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    logits = np.asarray(features, np.float64) @ kernel + bias
    order = np.argsort(-logits, axis=1)
    for k in (1, 5):
        expected = sum(label in row[:k] for label, row in zip(labels, order, strict=True))
        assert int(lp.count_correct(params, features, jnp.asarray(labels), k=k)) == expected
        grid = {name: jnp.stack([leaf * jnp.nan, leaf]) for name, leaf in params.items()}
        accuracy = lp.grid_accuracy(grid, np.asarray(features), labels, k=k, batch_size=16)
        np.testing.assert_allclose(accuracy, [0, expected / (labels >= 0).sum()])
    with pytest.raises(ValueError, match="no example is labelled"):
        lp.grid_accuracy(grid, features, np.full(40, -1))
