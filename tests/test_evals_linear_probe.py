import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from iecl_jax.evals import draws
from iecl_jax.evals import linear_probe as lp

SGD: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-2}


def _clusters(num_examples, num_classes=3, width=5, seed=0, spread=1.5):
    """Overlapping Gaussian classes, so that no probe is perfect."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, width))
    labels = rng.integers(0, num_classes, num_examples).astype(np.int32)
    features = centres[labels] + spread * rng.normal(size=(num_examples, width))
    return features.astype(np.float32), labels


def _loss_and_grad(kernel, bias, features, labels):
    logits = features @ kernel + bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, features.T @ p / len(labels), p.mean(axis=0)


def _numpy_sgd(params, batches, learning_rate, momentum, weight_decay):
    """torch.optim.SGD with a cosine to 0, in float64."""
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    v_kernel, v_bias, losses = np.zeros_like(kernel), np.zeros_like(bias), []
    for t, (features, labels) in enumerate(batches):
        known = labels >= 0
        loss, g_kernel, g_bias = _loss_and_grad(
            kernel, bias, features[known].astype(np.float64), labels[known]
        )
        rate = learning_rate * 0.5 * (1 + np.cos(np.pi * t / len(batches)))
        v_kernel = momentum * v_kernel + g_kernel + weight_decay * kernel
        v_bias = momentum * v_bias + g_bias
        kernel, bias = kernel - rate * v_kernel, bias - rate * v_bias
        losses.append(loss)
    return kernel, bias, losses


def _probe(total_steps, learning_rate=0.5, width=5, num_classes=3):
    tx = lp.probe_optimizer(learning_rate, **SGD, total_steps=total_steps)
    return tx, lp.init_probe(jax.random.key(0), width, num_classes, tx)


def _stream(num_batches, batch_size=8):
    batches = [_clusters(batch_size, seed=s) for s in range(num_batches)]
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


def test_streaming_is_sgd_with_momentum_decay_and_cosine():
    batches = _stream(6)
    tx, state = _probe(6)
    kernel, bias, losses = _numpy_sgd(state.params, batches, 0.5, **SGD)
    seen = []
    final = lp.train_streaming(
        state, batches, tx=tx, total_steps=6, on_step=lambda s, loss: seen.append((s.step, loss))
    )
    np.testing.assert_allclose(final.params["kernel"], kernel, atol=1e-5)
    np.testing.assert_allclose(final.params["bias"], bias, atol=1e-5)
    np.testing.assert_allclose([loss for _, loss in seen], losses, rtol=1e-5)
    assert [int(step) for step, _ in seen] == [1, 2, 3, 4, 5, 6]


def test_streaming_resumes_and_says_when_batches_end():
    batches = _stream(4)
    tx, state = _probe(4)
    whole = lp.train_streaming(state, batches, tx=tx, total_steps=4)
    half = lp.train_streaming(state, batches[:2], tx=tx, total_steps=2)
    again = lp.train_streaming(half, batches[2:], tx=tx, total_steps=4)
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    with pytest.raises(ValueError, match="ended after step 3 of 4"):
        lp.train_streaming(state, batches[:3], tx=tx, total_steps=4)


def test_step_over_two_devices_is_the_step_over_the_whole_batch():
    features, labels = _clusters(12)
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


GRID: dict[str, Any] = {"num_classes": 3, "num_epochs": 2, "batch_size": 8, **SGD, "seed": 3}


def test_grid_of_full_batches_is_numpy_sgd():
    features, labels = _clusters(20)
    rates = [0.0, 0.1, 0.5, 2.0]
    settings = {**GRID, "batch_size": 20, "num_epochs": 5}
    grid = lp.train_grid(features, labels, learning_rates=rates, **settings)
    start = {name: leaf[0] for name, leaf in grid.items()}  # where a rate of 0 stays
    for i, rate in enumerate(rates):
        kernel, bias, _ = _numpy_sgd(start, [(features, labels)] * 5, rate, **SGD)
        np.testing.assert_allclose(grid["kernel"][i], kernel, atol=2e-5)
        np.testing.assert_allclose(grid["bias"][i], bias, atol=2e-5)


def test_grid_members_do_not_depend_on_each_other():
    features, labels = _clusters(27)
    grid = lp.train_grid(features, labels, learning_rates=[0.1, 1.0], **GRID)
    swapped = lp.train_grid(features, labels, learning_rates=[1.0, 5.0], **GRID)
    np.testing.assert_allclose(grid["kernel"][1], swapped["kernel"][0], atol=1e-6)
    other = lp.train_grid(features, labels, learning_rates=[0.1, 1.0], **{**GRID, "seed": 4})
    assert np.abs(other["kernel"] - grid["kernel"]).max() > 1e-2


@pytest.mark.parametrize("num_epochs, num_seen", [(1, 8), (10, 11)])
def test_epochs_draw_without_replacement_and_anew(num_epochs, num_seen):
    """Example i alone has feature i, so row i of the kernel moves when i is seen."""
    settings = {**GRID, "num_epochs": num_epochs, "batch_size": 4, "weight_decay": 0.0}
    features, labels = np.eye(12, dtype=np.float32)[:11], np.arange(11) % 3
    kernel = lp.train_grid(features, labels, learning_rates=[0.0, 1.0], **settings)["kernel"]
    moved = np.any(kernel[1] != kernel[0], axis=1)
    assert moved.sum() == num_seen
    assert not moved[11]


def test_grid_reaches_the_convex_optimum():
    features, labels = _clusters(240, seed=1)
    test_features, test_labels = _clusters(2000, seed=2)
    decay = 0.01
    grid = lp.train_grid(
        features,
        labels,
        learning_rates=[0.5],
        num_classes=3,
        num_epochs=400,
        batch_size=240,
        momentum=0.9,
        weight_decay=decay,
        seed=0,
    )
    # Mean loss + decay/2 ||w||^2 is scikit-learn's C * sum of losses + ||w||^2 / 2, rescaled.
    optimum = LogisticRegression(C=1 / (decay * 240), tol=1e-8, max_iter=1000)
    optimum.fit(features.astype(np.float64), labels)
    accuracy = lp.grid_accuracy(grid, test_features, test_labels)[0]
    assert 0.5 < accuracy < 0.95
    assert accuracy == pytest.approx(optimum.score(test_features, test_labels), abs=0.005)
    np.testing.assert_allclose(grid["kernel"][0].T, optimum.coef_, atol=1e-3)


def test_unlabelled_examples_do_not_train():
    features, labels = _clusters(27)
    labels[::2] = -1
    noisy = features.copy()
    noisy[::2] = 100.0
    one, two = (
        lp.train_grid(x, labels, learning_rates=[0.1, 1.0], **GRID) for x in (features, noisy)
    )
    np.testing.assert_allclose(one["kernel"], two["kernel"], atol=1e-6)


CHOOSE: dict[str, Any] = {
    "num_epochs": 10,
    "batch_size": 32,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "seed": 0,
}


def test_choose_and_test():
    train, test = _clusters(150, 7, seed=1, spread=0.8), _clusters(300, 7, seed=2, spread=0.8)
    train[1][:10] = -1
    rates = [1e-6, 0.3, 1e4]
    got = lp.choose_and_test(
        *train, *test, learning_rates=rates, num_classes=7, **CHOOSE, holdout=0.2
    )
    kept, held = draws.split_holdout(train[1], share=0.2, seed=0)
    grid = lp.train_grid(
        train[0][kept], train[1][kept], learning_rates=rates, num_classes=7, **CHOOSE
    )
    held_out = lp.grid_accuracy(grid, train[0][held], train[1][held])
    assert got["best_learning_rate"] == 0.3
    assert got["holdout_accuracy"] == dict(zip(rates, held_out.tolist(), strict=True))
    known = train[1] >= 0
    retrained = lp.train_grid(
        train[0][known], train[1][known], learning_rates=[0.3], num_classes=7, **CHOOSE
    )
    assert got["test_top1"] == lp.grid_accuracy(retrained, *test)[0] > 0.4
    assert got["test_top5"] == lp.grid_accuracy(retrained, *test, k=5)[0] > got["test_top1"]


def test_choice_does_not_see_the_test_set():
    (x, labels), (test_x, test_labels) = _clusters(60), _clusters(40, seed=1)
    one, two = (
        lp.choose_and_test(
            x, labels, test_x, y, learning_rates=[0.01, 0.3], num_classes=3, **CHOOSE
        )
        for y in (test_labels, (test_labels + 1) % 3)
    )
    assert "test_top5" not in one
    assert one["test_top1"] != two["test_top1"]
    assert one["holdout_accuracy"] == two["holdout_accuracy"]


def test_first_of_equal_rates_is_chosen():
    train, test = _clusters(60), _clusters(40, seed=1)
    got = lp.choose_and_test(
        *train, *test, learning_rates=[0.3, 0.3000001], num_classes=3, **CHOOSE
    )
    assert got["best_learning_rate"] == 0.3


def test_grid_errors():
    features, labels = _clusters(20)
    with pytest.raises(ValueError, match="the features are empty"):
        lp.train_grid(features[:0], labels[:0], learning_rates=[0.1], **GRID)
    with pytest.raises(ValueError, match="label 2 needs a num_classes above 2"):
        lp.train_grid(features, labels, learning_rates=[0.1], **{**GRID, "num_classes": 2})
    with pytest.raises(ValueError, match="total_steps is 0"):
        lp.train_grid(features, labels, learning_rates=[0.1], **{**GRID, "num_epochs": 0})
    with pytest.raises(ValueError, match="learning_rates is empty"):
        lp.choose_and_test(
            features, labels, features, labels, learning_rates=[], num_classes=3, **CHOOSE
        )


def test_few_label_accuracy_is_the_mean_over_the_draws():
    (x, y), (test_x, test_y) = _clusters(120, width=9), _clusters(200, width=9, seed=1)
    x[:, 0], test_x[:, 0] = 0.1, 7.0  # a dead feature has no deviation
    y[:7], test_y[:9] = -1, -1
    got = lp.few_label_accuracy(x, y, test_x, test_y, labels_per_class=5, seed=2, num_draws=3)
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    std[0] = 1.0
    expected = []
    for draw in range(3):
        rows = draws.few_labels(y, labels_per_class=5, seed=2, draw=draw)
        model = LogisticRegression(tol=1e-6, max_iter=1000).fit((x[rows] - mean) / std, y[rows])
        expected.append(model.score(((test_x - mean) / std)[9:], test_y[9:]))
    np.testing.assert_allclose(got, [np.mean(expected), np.std(expected, ddof=1)], atol=0.006)
    assert 0.4 < got[0] < 1
    assert got[1] > 0


def test_few_label_single_draw_and_errors():
    (x, y), test = _clusters(40), _clusters(50, seed=1)
    few = functools.partial(lp.few_label_accuracy, seed=0)
    first, no_deviation = few(x, y, *test, labels_per_class=2, num_draws=1)
    assert no_deviation == 0.0
    mean, deviation = few(x, y, *test, labels_per_class=2, num_draws=2)
    assert mean != first
    assert deviation == pytest.approx(abs(mean - first) * 2**0.5)
    with pytest.raises(ValueError, match="fewer than labels_per_class=30: lower"):
        few(x, y, *test, labels_per_class=30)
    with pytest.raises(ValueError, match="fewer than two classes"):
        few(x, np.zeros(40, int), *test, labels_per_class=1)
    with pytest.raises(ValueError, match="no test example is labelled"):
        few(x, y, x, np.full(40, -1), labels_per_class=1)
    with pytest.raises(ValueError, match="num_draws is 0"):
        few(x, y, *test, labels_per_class=1, num_draws=0)


def test_few_label_on_more_features_than_examples_converges():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 400)) * np.geomspace(1e-3, 1e3, 400)).astype(np.float32)
    y = np.arange(60) % 3
    mean, _ = lp.few_label_accuracy(x, y, x, y, labels_per_class=20, seed=0, num_draws=1)
    assert mean == 1.0
